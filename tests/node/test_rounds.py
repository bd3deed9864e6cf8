"""What a node says of itself over its rounds and restarts, and what it keeps of others."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import trio
import trio.testing

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.events import Begin, Completed, Contribute, EpochBegan, Evidence, Prepared, Skipped, Waiting
from p2pfl.gossip.evidence import Accusation, contradiction, without_payload
from p2pfl.gossip.exclusions import Ground
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.gossip.messages import Limits, Masked, Result, decode_untrusted, encode
from p2pfl.gossip.participant import MESSAGES
from p2pfl.gossip.thresholds import thresholds
from p2pfl.gossip.wire import signed
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.accountant import epsilon
from p2pfl.node.errors import NetworkError, StorageError
from p2pfl.node.evaluations import measured
from p2pfl.node.learner import Learner
from p2pfl.node.membership.catch_up import Summary
from p2pfl.node.monitoring.participation import NEW_SECONDS
from p2pfl.node.privacy import dimension, stage_plan
from p2pfl.node.released import Released
from p2pfl.node.rounds import OneThread, Rounds, participation, status_at_start
from p2pfl.node.storage.last_signed import LastSigned
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Store
from p2pfl.node.training.metrics import Evaluation

IDENTITY, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
PEERS = (IDENTITY.peer_id, OTHER.peer_id)
SUMS = (61.0, 80.0, 30.5, *[0.0] * 48)
MODEL = Released(2, 1, np.array([1.0]), np.array([0.5]))


def manifest(mode: str = "distributed") -> Manifest:
    """Of two training rounds."""
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", IDENTITY.peer_id))
    draft = replace(draft, training=replace(draft.training, rounds=2))
    if mode == "none":
        return replace(draft, privacy=draft.privacy.with_mode("none"))
    privacy = replace(
        draft.privacy,
        noise_multiplier=4.0,
        statistics_noise_multiplier=4.0,
        evaluation_noise_multiplier=4.0,
    )
    return replace(draft, privacy=privacy)


@dataclass
class Played:
    """A learner without torch: adopts what is plausible, which is what was released before ``before``."""

    released: Released | None = None
    recent: tuple[Released, ...] = ()
    population: int = 1
    dimensions: tuple[int, int] = (1, 1)
    trained: bool = False
    idle: str = ""
    told: list[int | None] = field(default_factory=list)

    def behind(self, round: int) -> bool:
        return self.released is None

    def plausible(self, released: Released, before: int | None) -> bool:
        self.told.append(before)
        return True

    def adopt(self, released: Released) -> None:
        self.released = released

    def prepare(self, round: int) -> Prepared | None:
        return None

    def contribute(self, effect: Contribute) -> np.ndarray:
        return np.zeros(1, np.uint32)

    def completed(self, effect: Completed) -> None:
        pass

    def own_evaluation(self) -> Evaluation:
        return Evaluation.of(manifest("none"), (8.0, 10.0, 4.0, *[0.0] * 48))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path, IDENTITY) as opened:
        yield opened


def trained(store: Store, agreed: Manifest, *, evaluated: bool) -> None:
    """What three rounds and a skipped one leave behind."""
    store.bind_manifest(canonical_bytes(agreed))
    stages = ["statistics", "training", "training", "evaluation"]
    for round, stage in enumerate(stages if evaluated else stages[:3]):
        plan = stage_plan(agreed, stage, dimension(agreed, stage))
        store.charge(round, plan.mechanism(agreed.groups.thresholds) if plan.charged else None)
        sums = SUMS if stage == "evaluation" else None
        store.record_round(RoundOutcome(round, stage, PEERS, PEERS, "", True, 0, sums))
    store.record_round(RoundOutcome(9, "training", (), (), "too few survivors", False, 0))
    store.save_released(MODEL)


def rounds(
    store: Store,
    agreed: Manifest,
    learner: Played,
    holds: Released | None = None,
    exclude: Callable[[Ground], None] = lambda ground: None,
) -> Rounds:
    async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        assert holds is not None
        if name == "summary":
            return Summary(((holds.round, holds.digest),), False).to_bytes()
        return holds.to_bytes()

    status = status_at_start(IDENTITY.peer_id, agreed.digest, store)
    made = (agreed, cast(Learner, learner), store, status, OneThread(), ask)
    return Rounds(*made, lambda: () if holds is None else (PeerId("B"), PeerId("C")), exclude)


def run(main: Any) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def written(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.directory / "status.json").read_text())
    return found


# -- status
def test_a_new_node_has_nothing_to_tell(store: Store) -> None:
    status = status_at_start(IDENTITY.peer_id, bytes(32), store)
    assert (status.phase, status.completed, status.epsilon, status.model) == ("starting", 0, None, "")


def test_before_anything_is_paid_it_says_what_will_be(store: Store) -> None:
    agreed = manifest()
    store.bind_manifest(canonical_bytes(agreed))
    status_at_start(IDENTITY.peer_id, agreed.digest, store).write(store.directory)
    found = written(store)
    assert found["epsilon"] == 0.0 < found["epsilon_at_the_end"] <= agreed.privacy.epsilon


@pytest.mark.parametrize("evaluated", [True, False])
def test_before_it_is_first_written_it_says_what_the_store_knows(store: Store, evaluated: bool) -> None:
    agreed = manifest()
    trained(store, agreed, evaluated=evaluated)
    status = status_at_start(IDENTITY.peer_id, agreed.digest, store)
    assert (status.completed, status.skipped, status.training_completed) == (4 if evaluated else 3, 1, 2)
    assert status.last_skip == "too few survivors"
    assert status.rounds_total == agreed.training.rounds
    spent = epsilon(store.mechanisms(), agreed.privacy.delta)
    assert (status.epsilon, status.epsilon_rdp) == (spent.pld, spent.rdp)
    assert (status.epsilon_budget, status.delta) == (agreed.privacy.epsilon, agreed.privacy.delta)
    assert status.epsilon_at_the_end == spent.pld  # all that may come is paid by test records, who pay less
    assert [colluders for colluders, _ in status.ladder] == [1, 2, 3]
    assert status.model == str(store.model_path)
    assert status.evaluation == (Evaluation.of(agreed, SUMS).as_dict() if evaluated else {})
    assert status.phase == ("done" if evaluated else "starting")
    assert status.ended == ("all 2 training rounds are over" if evaluated else "")


def test_mode_none_has_no_epsilon(store: Store) -> None:
    trained(store, manifest("none"), evaluated=True)
    status = status_at_start(IDENTITY.peer_id, bytes(32), store)
    assert (status.privacy_mode, status.epsilon, status.epsilon_budget, status.ladder) == (
        "none",
        None,
        None,
        [],
    )


def test_a_finished_node_stays_done_whatever_the_machine_says(store: Store) -> None:
    agreed = manifest("none")
    trained(store, agreed, evaluated=True)
    work = rounds(store, agreed, Played(released=MODEL))

    async def main() -> None:
        await work.finish()
        assert work.summary().done
        work.waiting(Waiting("alone"))
        work.epoch_began(EpochBegan(1, 10, PEERS))
        await work.prepare(Begin(10, PEERS))

    run(main)
    found = written(store)
    assert found["phase"] == "done"
    assert found["evaluation"] == Evaluation.of(agreed, SUMS).as_dict()
    assert found["own_evaluation"]["accuracy"] == 0.8
    assert found["model"].endswith("model-00000002.safetensors")


def test_an_epsilon_that_is_out_of_date_is_not_shown(store: Store) -> None:
    """Until it is computed again, none is better than one that is too small."""
    agreed = manifest()
    trained(store, agreed, evaluated=False)
    work = rounds(store, agreed, Played(released=MODEL))

    async def main() -> None:
        await work.contribute(Contribute(3, 0, PEERS, agreed.groups.thresholds))
        await work.prepare(Begin(4, PEERS))
        assert (written(store)["epsilon"], written(store)["ladder"]) == (None, [])
        await work.finish()

    run(main)
    assert written(store)["epsilon"] == epsilon(store.mechanisms(), agreed.privacy.delta).pld


# -- others
OLDER, OURS, NEWER = (replace(MODEL, round=round) for round in (0, 1, 8))


@pytest.mark.parametrize(
    ("done", "waiting", "newest", "over"),
    [
        (0, 3, OURS, False),
        (1, 0, OURS, False),  # one may be lying
        (2, 0, OURS, True),  # the federation skipped its last training round
        (3, 2, OURS, True),
        (2, 2, OURS, False),  # as many go on
        (2, 1, NEWER, True),  # and we hold it then
        (2, 0, OLDER, True),  # we went on where they did not
        (2, 1, OLDER, True),
    ],
)
def test_when_it_is_over_without_us(
    store: Store, done: int, waiting: int, newest: Released, over: bool
) -> None:
    others = {PeerId(str(number)): number < done for number in range(done + waiting)}

    async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        held = newest if others[peer] else OURS
        return (
            Summary(((held.round, held.digest),), others[peer]).to_bytes()
            if name == "summary"
            else held.to_bytes()
        )

    agreed, learner = manifest("none"), Played(released=OURS)
    status = status_at_start(IDENTITY.peer_id, agreed.digest, store)
    made = (agreed, cast(Learner, learner), store, status, OneThread(), ask)
    work = Rounds(*made, lambda: others, lambda peer: None)
    found: list[bool] = []

    async def main() -> None:
        found.append(await work.over_without_us())
        work.waiting(Waiting("few"))
        await work.prepare(Begin(3, PEERS))
        found.append(await work.over_without_us())

    run(main)
    assert found == [over, False]  # never while we learn


def test_who_skipped_a_round_asks_whether_the_others_have_ended(store: Store) -> None:
    """Of two that saw the same, one may have missed the vote; it does not wait for them round after round."""
    asked: list[str] = []

    async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        asked.append(name)
        return Summary(((OURS.round, OURS.digest),), True).to_bytes()

    agreed, learner = manifest("none"), Played(released=OURS)
    prepared: list[int] = []
    status = status_at_start(IDENTITY.peer_id, agreed.digest, store)
    made = (agreed, cast(Learner, learner), store, status, OneThread(), ask)
    work = Rounds(*made, lambda: (PeerId("B"), PeerId("C")), lambda peer: None)

    async def main() -> None:
        learner.prepare = lambda round: prepared.append(round)  # type: ignore[method-assign]
        await work.prepare(Begin(2, PEERS))
        assert {*asked} == {"signed"}
        await work.skipped(Skipped(2, "training", "too few", False))
        assert await work.prepare(Begin(3, PEERS)) is None
        await work.finish()

    learner.skipped = lambda effect: None  # type: ignore[attr-defined]
    run(main)
    assert prepared == [2]
    assert "summary" in asked
    assert written(store)["ended"] == "most of the members that are here say so"


def test_the_history_of_evaluations_is_in_the_status(store: Store) -> None:
    agreed = manifest("none")
    trained(store, agreed, evaluated=True)
    store.record_round(RoundOutcome(4, "evaluation", PEERS, PEERS[:1], "", True, 0))
    status = status_at_start(IDENTITY.peer_id, agreed.digest, store)
    assert status.evaluations == [
        {"round": 3, "members": 2, **Evaluation.of(agreed, SUMS).as_dict()},
        {"round": 4, "members": 1},  # too few records in it
    ]
    assert status.evaluation == Evaluation.of(agreed, SUMS).as_dict()


def test_a_sum_of_means_says_how_many_members_are_in_it_and_not_how_many_records() -> None:
    agreed = manifest()
    whole = replace(agreed, privacy=replace(agreed.privacy, mode="organisation"))
    outcomes = [RoundOutcome(3, "evaluation", PEERS, PEERS, "", True, 0, SUMS)]
    records, means = ([one.as_dict(of) for one in measured(of, outcomes)] for of in (agreed, whole))
    assert records[0].pop("total") == 80
    assert means == records


def test_the_model_is_in_the_status_as_soon_as_there_is_one(store: Store) -> None:
    work = rounds(store, manifest("none"), Played())
    run(lambda: work.prepare(Begin(0, PEERS)))
    assert written(store)["model"] == ""
    store.save_released(MODEL)
    run(lambda: work.prepare(Begin(1, PEERS)))
    assert written(store)["model"] == str(store.model_path)


def test_a_newcomer_is_told_which_round_it_is_in(store: Store) -> None:
    learner = Played()
    work = rounds(store, manifest("none"), learner, MODEL)

    async def main() -> None:
        await work.prepare(Begin(7, PEERS))

    run(main)
    assert learner.told == [7]
    assert learner.released is not None
    assert learner.released.digest == MODEL.digest


def test_a_release_is_made_into_bytes_once_for_all_who_ask(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many catch up at a time; and kept until there is another model, the last one asked for only."""
    built, to_bytes = [], Released.to_bytes
    newest, before = replace(MODEL, round=3), MODEL
    learner = Played(newest, (newest, before))
    node = rounds(store, manifest(), learner)

    def build(release: Released) -> bytes:
        built.append(release.round)
        return to_bytes(release)

    async def main() -> None:
        async def ask(release: Released) -> None:
            assert await node.state(release.digest) == to_bytes(release)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, newest)
        await ask(newest)
        await ask(before)
        assert await node.state(bytes(32)) is None
        await ask(before)
        await node.completed(Completed(4, "training", np.zeros(1), PEERS, PEERS, thresholds(3, 1)))
        await ask(before)

    monkeypatch.setattr(Released, "to_bytes", build)
    run(main)
    assert built == [3, 2, 2]  # the last of them after the round


def test_evidence_is_kept_with_its_signature_and_without_its_bulk(store: Store) -> None:
    work = rounds(store, manifest("none"), Played())
    masked = [
        signed(OTHER, Masked.of(OTHER.peer_id, (1, 0, bytes(32)), 0, bytes([value]) * 400_000))
        for value in (1, 2)
    ]

    async def main() -> None:
        await work.evidence(Evidence(OTHER.peer_id, "two masked vectors", tuple(masked)))

    run(main)
    ((peer, kind, messages),) = store.evidence()
    assert (peer, kind) == (OTHER.peer_id, "two masked vectors")
    assert messages == tuple(without_payload(message) for message in masked)
    assert store.exclusions() == []
    assert sum(map(len, messages)) < 1000
    for message, whole in zip(messages, masked, strict=True):
        payload = encode(whole)[len(message) - 2 :]  # an empty payload takes two bytes
        assert message[:-2] == encode(whole)[: len(message) - 2]
        assert len(payload) == 400_000 + 5
        assert decode_untrusted(OTHER.peer_id, message[:-2] + payload, Limits(100_000), MESSAGES) == whole


@pytest.mark.parametrize("accused", [OTHER, IDENTITY], ids=["a peer", "this node"])
def test_who_contradicted_itself_is_written_down_before_its_connection_ends(
    store: Store, accused: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    excluded: list[tuple[PeerId, int]] = []
    work = rounds(
        store,
        manifest("none"),
        Played(),
        exclude=lambda ground: excluded.append((ground.against, len(store.exclusions()))),
    )
    place = (1, 0, bytes(32))
    masked = [signed(accused, Masked.of(accused.peer_id, place, 0, bytes([value]) * 12)) for value in (1, 2)]
    proof = contradiction(masked)
    assert proof is not None
    accusation = Accusation(IDENTITY.peer_id, "", proof)

    async def main() -> None:
        await work.evidence(Evidence(accused.peer_id, accusation.kind, (accusation,)))

    run(main)
    assert excluded == [(accused.peer_id, 1)]
    assert [exclusion.ground for exclusion in store.exclusions()] == [accusation]
    assert store.exclusions()[0].since > 1_600_000_000
    assert store.evidence() == []
    assert ("new identity" in caplog.text) == (accused is IDENTITY)
    took_part = participation(manifest("none"), store, PeerId("A"))
    took_part.count((accused.peer_id, PeerId("B")), (PeerId("B"),), 0)
    assert [share.peer for share in took_part.shares()] == ["B"], "who is excluded is not asked after"


def test_a_node_whose_ledger_is_behind_its_own_signature_ends_before_a_round(store: Store) -> None:
    result = Result(IDENTITY.peer_id, 5, 0, *(bytes([n]) * 32 for n in (1, 2, 3)))
    known = LastSigned(())
    known.note([signed(IDENTITY, result)])
    prepared: list[int] = []

    async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        assert name == "signed"
        if peer == "B":
            raise NetworkError("gone", "")
        return known.of(IDENTITY.peer_id)

    def work() -> Rounds:
        agreed, learner = manifest("none"), Played(released=OURS)
        learner.prepare = lambda round: prepared.append(round)  # type: ignore[method-assign]
        status = status_at_start(IDENTITY.peer_id, agreed.digest, store)
        made = (agreed, cast(Learner, learner), store, status, OneThread(), ask)
        return Rounds(*made, lambda: (PeerId("B"), PeerId("C")), lambda peer: None)

    async def behind() -> None:
        with pytest.raises(StorageError, match="C holds this node's own signature of round 5"):
            await work().prepare(Begin(6, PEERS))

    run(behind)
    assert prepared == []
    store.charge(5, None)

    async def whole() -> None:
        await work().prepare(Begin(6, PEERS))

    run(whole)
    assert prepared == [6]


def test_who_is_missed_is_said_once_and_when_it_is_back(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    agreed, learner = manifest("none"), Played(released=OURS)
    status = status_at_start(IDENTITY.peer_id, agreed.digest, store)
    made = (agreed, cast(Learner, learner), store, status, OneThread(), None)
    work = Rounds(*made, lambda: (), lambda peer: None, trio.current_time)  # type: ignore[arg-type]
    group = (IDENTITY.peer_id, PEERS[1])

    async def main() -> None:
        for round, survivors in enumerate([group[:1]] * 25 + [group] * 12):
            await trio.sleep(0.1 if round < 17 else NEW_SECONDS)
            total = np.zeros(1, dtype=np.uint32)
            await work.completed(Completed(round, "training", total, survivors, group, thresholds(3, 1)))

    with caplog.at_level("INFO"):
        run(main)
    said = [record.message for record in caplog.records if PEERS[1] in record.message]
    said = [message for message in said if "completed with" not in message]
    assert len(said) == 2
    assert said[0].startswith(f"missed: {PEERS[1]} took part in 0 of the last 5 rounds, in 0 of 22 in all")
    assert said[1] == f"peer {PEERS[1]} takes part again"
    assert status.participation[0]["took"] == 12
