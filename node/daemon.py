"""One organisation's daemon: puts transport, machine, learner and store together under one nursery.

    transport ──events──▶ shell (owns the participant machine) ──effects──▶ transport
                              │ jobs, one at a time, on one other thread
                              ▼
                          rounds ──▶ learner (torch, encoding, noise) ──▶ store (ledger, rounds, model)

What ends it: SIGTERM, SIGINT or SIGHUP; with ``until_done`` also the end of the federation's programme. Each
concern is one task with one owner; a task that fails ends the node, with a sentence for the operator.
"""

import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, cast

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import PeerFound, PeerLost, Received
from p2pfl.gossip.exclusions import Ground, Retirement
from p2pfl.gossip.manifest import Manifest, OutsideTask, canonical_bytes
from p2pfl.gossip.messages import Limits as MessageLimits
from p2pfl.gossip.messages import decode_untrusted
from p2pfl.gossip.participant import MESSAGES, Participant
from p2pfl.gossip.wire import longest
from p2pfl.node.accountant import computed_by
from p2pfl.node.config import NodeConfig
from p2pfl.node.epsilon_process import EpsilonProcess
from p2pfl.node.errors import UserError
from p2pfl.node.examination import REQUEST as EXAMINATION
from p2pfl.node.examination import Examiner
from p2pfl.node.finding.dialback import REQUEST as DIALBACK
from p2pfl.node.finding.dialback import Report
from p2pfl.node.finding.discovery import peer_of
from p2pfl.node.finding.ways import Finding
from p2pfl.node.learner import Learner
from p2pfl.node.libraries import import_torch
from p2pfl.node.limits import explaining_lack_of_memory, limit_memory
from p2pfl.node.membership.catch_up import ANSWER_SECONDS, ask_summaries
from p2pfl.node.membership.joining import obtain_manifest
from p2pfl.node.membership.left_files import LeftFiles
from p2pfl.node.monitoring.observer import Observer
from p2pfl.node.monitoring.watchdog import SWITCH_SECONDS, spare_the_collector
from p2pfl.node.own_learner import learner_of, trainer_of
from p2pfl.node.privacy import Budget
from p2pfl.node.reload import Reloader
from p2pfl.node.rounds import OneThread, Rounds, cost_of, recall, status_at_start
from p2pfl.node.shell import Shell, Work
from p2pfl.node.start import Prepared, load_records
from p2pfl.node.stop_signals import WORDS, end_soon, stop_signals
from p2pfl.node.storage.last_signed import REQUEST as LAST_SIGNED
from p2pfl.node.transport.network import (
    GuestRefused,
    Limits,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    RequestRefused,
    Transport,
)

if TYPE_CHECKING:
    from p2pfl.node.training.outside import OutsideTrainer

log = logging.getLogger(__name__)

# The largest model that a manifest may declare has 25 million parameters, 100 MB in the ring; what is read is
# limited further by the manifest at hand. What may be asked for is a digest, or addresses to dial back.
LIMITS = Limits(max_message=96 << 20, max_request=1 << 10, outbox_bytes=512 << 20, inbox_bytes=192 << 20)
LINGER_SECONDS = 20.0
LINGER_POLL_SECONDS = 0.2
SLOWEST_BYTES_PER_SECOND = 1 << 20
END_POLL_SECONDS = 2.0
EXPIRY_SECONDS = 60.0
SOON_SECONDS = 10.0
"""Until what the first training needs is made ready though no round has come."""


def run_node(prepared: Prepared, *, until_done: bool, reread: Callable[[], NodeConfig]) -> int:
    """Run the daemon; return the exit status. ``reread`` gives the configuration as it is now, whenever the
    operator asks for that. Raises UserError with what the operator can do.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    memory = prepared.config.memory
    limit_memory(memory)
    spare_the_collector()
    try:
        with explaining_lack_of_memory(memory), closing(EpsilonProcess()) as epsilons, computed_by(epsilons):
            trio.run(Node(prepared, epsilons, until_done=until_done, reread=reread).run)
    except* UserError as errors:
        raise _first(errors) from None
    return 0


def _first(group: BaseExceptionGroup[UserError]) -> UserError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UserError)
    return error


class Node:
    """The running daemon. Everything that lives as long as the process and no longer."""

    def __init__(
        self,
        prepared: Prepared,
        epsilons: EpsilonProcess,
        *,
        until_done: bool,
        reread: Callable[[], NodeConfig],
    ) -> None:
        self._prepared = prepared
        self._epsilons = epsilons
        self._config = config = prepared.config
        self._identity = identity = prepared.identity
        self._store = prepared.store
        self._until_done = until_done
        self._thread = OneThread()
        self._federation = prepared.federation
        self._status = status_at_start(identity.peer_id, self._federation, self._store)
        self._manifest: Manifest | None = None
        self._rounds: Rounds | None = None
        self._budget: Budget | None = None
        self._outside: OutsideTrainer | None = None
        self._met = self._store.peers()
        self._remembering: set[PeerId] = set()
        self._admission = prepared.admission
        self._transport = Transport(
            identity,
            config.listen,
            self._admission,
            f"/p2pfl/{self._federation.hex()}",
            LIMITS,
            {
                "manifest": self._answer_manifest,
                "summary": self._answer_summary,
                "state": self._answer_state,
                LAST_SIGNED: self._answer_last_signed,
                DIALBACK: self._answer_dialback,
                EXAMINATION: Examiner(self._federation, identity.peer_id).answer,
            },
            relay=config.relay,
            network_key=prepared.network_key,
            is_proved=self._admission.is_proved,
        )
        self._transport.limit_messages(longest(MessageLimits(max_dim=0), MESSAGES))
        for exclusion in self._store.exclusions():
            self._admission.exclude(exclusion.ground)
        self._finding = Finding(
            config,
            identity,
            self._federation,
            self._transport,
            refused=lambda: self._admission.excluded,
            expected=self._expected,
            reached=self._remember_soon,
            reported=self._note_reachability,
        )
        self._dialler = self._finding.dialler
        self._observer = Observer(
            config, self._status, self._store.directory, self._transport, self._admission
        )
        self._reloader = Reloader(
            config,
            reread,
            {
                "log_level": lambda new: logging.getLogger("p2pfl").setLevel(new.log_level.upper()),
                "bootstrap": lambda new: self._seek(new.bootstrap),
                "rendezvous": lambda new: self._finding.meet_at(new.rendezvous),
                "memory": lambda new: limit_memory(new.memory),
            },
        )

    async def run(self) -> None:
        """Serve until a signal, or with ``until_done`` until the programme is over."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._stop_on_signal, nursery.cancel_scope)
            nursery.start_soon(self._reloader.run)
            await nursery.start(self._transport.run)
            await nursery.start(self._observer.run)
            self._announce_addresses()
            self._observer.notifier.ready()
            nursery.start_soon(self._finding.run, self._status.addresses)
            for addresses in self._met.values():
                self._dialler.want(addresses)
            self._seek(self._config.bootstrap)
            manifest = self._prepared.manifest or await obtain_manifest(
                self._transport,
                self._federation,
                self._config.bootstrap or self._finding.places,
                self._admission.is_member,
            )
            await self._take_part(manifest)
            nursery.cancel_scope.cancel()

    def _seek(self, bootstrap: Sequence[str]) -> None:
        self._admission.keep_places(filter(None, map(peer_of, bootstrap)))
        self._dialler.want(bootstrap)

    def _announce_addresses(self) -> None:
        announced = tuple(
            address if peer_of(address) else f"{address}/p2p/{self._identity.peer_id}"
            for address in self._config.announce
        )
        self._status.addresses = list(announced or self._transport.addresses)
        for address in self._status.addresses:
            print(f"listening on {address}", flush=True)  # noqa: T201 - what another operator pastes
        self._status.write(self._store.directory)

    async def _stop_on_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(*stop_signals()) as signals:
            async for number in signals:
                log.warning("%s: %s", signal.Signals(number).name, WORDS)
                self._observer.notifier.stopping()
                end_soon()
                if self._outside is not None:
                    self._outside.close()  # or a thread would wait for the training loop
                scope.cancel()

    # -- taking part
    async def _take_part(self, manifest: Manifest) -> None:
        for peer, reason in self._admission.adopt(manifest).items():
            await self._transport.disconnect(peer, reason)
        await self._thread(lambda: self._store.bind_manifest(canonical_bytes(manifest)))
        self._manifest = manifest
        learner = await self._thread(lambda: self._make_learner(manifest))
        spare_the_collector()
        self._transport.limit_messages(longest(learner.message_limits, MESSAGES))
        await self._describe(manifest)
        rounds = self._rounds = Rounds(
            manifest,
            learner,
            self._store,
            self._status,
            self._thread,
            self._ask,
            lambda: self._transport.connected,
            self._exclude,
        )
        participant = Participant(
            identity=self._identity,
            manifest=manifest,
            addresses=tuple(self._status.addresses),
            random=system_random,
            is_member=self._admission.is_member,
            standing=self._admission.standing,
            ticket=self._admission.shown_ticket,
            next_round=learner.next_round,
            exclusions=self._grounds(),
        )
        work = await self._thread(lambda: self._watched(rounds))
        shell = Shell(participant, self._transport.send, self._on_connect, self._on_blame, work)
        self._observer.watch_backlog(lambda: shell.backlog)
        if learner.done:
            shell.finished.set()
        else:
            self._nursery.start_soon(self._look_ahead, manifest, learner, rounds)
        self._nursery.start_soon(shell.run)
        self._nursery.start_soon(self._feed, shell, learner.message_limits)
        self._nursery.start_soon(self._drop_expired)
        left = LeftFiles(self._config, self._status, self._admission, shell.feed)
        self._nursery.start_soon(left.take_statements, manifest)
        self._nursery.start_soon(left.watch_ticket)
        self._nursery.start_soon(self._notice_the_end, rounds, shell.finished)
        await shell.finished.wait()
        await rounds.finish()
        await self._thread(self._epsilons.close)
        if self._outside is not None:
            self._outside.end(None if learner.released is None else learner.released.parameters)
        if self._until_done:
            await self._linger()
        else:
            await trio.sleep_forever()

    async def _look_ahead(self, manifest: Manifest, learner: Learner, rounds: Rounds) -> None:
        """Do what is slow and needed by the first training: epsilon, and the import of torch. If rounds come
        soon, after the first of them, of statistics, which needs neither; else while the federation gathers.
        """
        with trio.move_on_after(SOON_SECONDS):
            await rounds.begun.wait()
        if manifest.privacy.mode != "none":
            await trio.to_thread.run_sync(await self._thread(learner.warm_up))
            compute = await self._thread(lambda: cost_of(manifest, self._store))
            rounds.show(await trio.to_thread.run_sync(compute))
        await trio.to_thread.run_sync(import_torch)

    def _watched(self, rounds: Rounds) -> Work:
        budget = self._budget
        spent = None if budget is None else lambda: budget.spent.pld
        return self._observer.metered(rounds, self._store.rounds(), len(self._store.charges()), spent)

    def _make_learner(self, manifest: Manifest) -> Learner:
        records = self._prepared.records or load_records(self._config, manifest)
        trainer = trainer_of(manifest, records, self._store.directory)
        self._outside = cast("OutsideTrainer", trainer) if isinstance(manifest.task, OutsideTask) else None
        learner, budget = learner_of(manifest, trainer, self._store)
        self._budget = None if manifest.privacy.mode == "none" else budget
        return learner

    async def _describe(self, manifest: Manifest) -> None:
        await self._thread(lambda: recall(self._status, manifest, self._store))
        log.info(
            "federation %s (%s): %d training rounds, privacy mode %s; this node has completed %d",
            manifest.name,
            manifest.federation_id[:12],
            manifest.training.rounds,
            manifest.privacy.mode,
            self._status.training_completed,
        )

    async def _feed(self, shell: Shell, limits: MessageLimits) -> None:
        """Everything that the transport reports becomes an event of the machine, or the end of the peer's
        connection.
        """
        async for event in self._transport.events:
            match event:
                case PeerConnected(peer) if not self._admission.is_member(peer):  # let in without a manifest
                    await self._transport.disconnect(peer, "nothing that it showed admits it")
                case PeerConnected(peer):
                    log.info("connected to %s", peer)
                    self._admission.check_clock(self._met)
                    self._remember_soon(peer)
                    self._finding.reachability.met()
                    await shell.feed(PeerFound(peer))
                case PeerDisconnected(peer, reason):
                    log.info("lost %s: %s", peer, reason)
                    self._dialler.lost(peer)
                    await shell.feed(PeerLost(peer))
                case MessageReceived(peer, data):
                    try:
                        message = decode_untrusted(peer, data, limits, MESSAGES)
                    except RemoteProtocolError as error:
                        log.warning("%s", error)
                        await self._transport.disconnect(peer, error.reason)
                    else:
                        await shell.feed(Received(peer, message))
                case GuestRefused():
                    pass  # the transport has said so
            self._status.bytes_sent = self._transport.traffic().wire_sent
            self._status.bytes_received = self._transport.traffic().wire_received

    def _on_connect(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Call a peer where it says it is, whenever it is not here. Only one that was met, whoever called
        whom, is remembered over a restart.
        """
        own = tuple(address for address in addresses if peer_of(address) == peer)
        self._dialler.try_reaching(own)
        self._remember_soon(peer)

    def _remember_soon(self, peer: PeerId) -> None:
        if peer in self._transport.connected and peer not in self._remembering:
            self._remembering.add(peer)
            self._nursery.start_soon(self._remember, peer)

    async def _remember(self, peer: PeerId) -> None:
        def remember() -> None:  # where the peer is when it is its turn
            if addresses := self._dialler.addresses(peer):
                self._store.remember_peer(peer, addresses)

        await self._thread(remember)
        self._remembering.discard(peer)

    def _on_blame(self, peer: PeerId, reason: str) -> None:
        self._nursery.start_soon(self._transport.disconnect, peer, reason)

    def _exclude(self, ground: Ground) -> None:
        for peer, reason in self._admission.exclude(ground).items():
            self._on_blame(peer, reason)

    def _grounds(self) -> list[Ground]:
        """Who is excluded, and the key that this node's own took the place of."""
        own = self._admission.succession
        retirements = [Retirement(self._identity.peer_id, own)] if own.successions else []
        return [*retirements, *(exclusion.ground for exclusion in self._store.exclusions())]

    def _expected(self) -> set[PeerId]:
        """Everybody known to be a member."""
        return {*self._met, *(() if self._manifest is None else self._manifest.members)}

    def _note_reachability(self, report: Report) -> None:
        self._status.reachability = report.as_dict()

    async def _notice_the_end(self, rounds: Rounds, finished: trio.Event) -> None:
        """A node that comes back after the last round finds nobody to form a group with."""
        while not finished.is_set():
            await trio.sleep(END_POLL_SECONDS)
            if await rounds.over_without_us():
                finished.set()

    async def _drop_expired(self) -> None:
        while True:
            await trio.sleep(EXPIRY_SECONDS)
            for peer, reason in self._admission.expired().items():
                log.warning("disconnecting %s: %s", peer, reason)
                await self._transport.disconnect(peer, reason)

    # -- what members may ask for
    async def _answer_manifest(self, _peer: PeerId, _body: bytes) -> bytes:
        if self._manifest is None:
            raise RequestRefused("this node has no manifest yet itself")
        return canonical_bytes(self._manifest)

    async def _answer_summary(self, _peer: PeerId, _body: bytes) -> bytes:
        if self._rounds is None:
            raise RequestRefused("this node is still starting")
        return self._rounds.summary().to_bytes()

    async def _answer_state(self, _peer: PeerId, digest: bytes) -> bytes:
        state = None if self._rounds is None else await self._rounds.state(digest)
        if state is None:
            raise RequestRefused("this node does not hold that release")
        return state

    async def _answer_last_signed(self, peer: PeerId, _body: bytes) -> bytes:
        return b"" if self._rounds is None else self._rounds.last_signed(peer)

    async def _answer_dialback(self, peer: PeerId, body: bytes) -> bytes:
        return await self._finding.dialback.answer(peer, body)

    async def _ask(self, peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        seconds = ANSWER_SECONDS + most / SLOWEST_BYTES_PER_SECOND
        return await self._transport.request(peer, name, body, max_response=most, seconds=seconds)

    async def _linger(self) -> None:
        """Stay until every connected peer is done too: it may still want our model, or our last messages."""
        with trio.move_on_after(LINGER_SECONDS):
            while True:
                summaries = await ask_summaries(self._ask, self._transport.connected)
                if all(summary.done for summary in summaries.values()):
                    return
                await trio.sleep(LINGER_POLL_SECONDS)
