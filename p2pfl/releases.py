"""The ledger for people: what each round told about this node's records, and whom."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.accountant import Mechanism
from p2pfl.node.storage.carried import Carried
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Charge

_TOLD = {
    "statistics": "count, sums and squares of numeric columns, over all training records",
    "training": "clipped gradients of sampled training records",
    "evaluation": "how often and how far the model is off, over all test records",
}
_TOLD_OF_ORGANISATION = {
    "statistics": "means of numeric columns and of their squares, over all training records",
    "training": "the clipped update from all training records",
    "evaluation": "how often and how far the model is off on average, over all test records",
}


@dataclass(frozen=True, slots=True)
class Release:
    """One contribution of this node; or, where ``federation`` is the id of an earlier one, all those in it
    that told the same, with no ``round``.

    ``mechanism`` is None if no record was looked at. ``recipients``: the members of the roster; empty if the
    ledger does not have them. ``completed``: whether a sum came of it; if not, it is charged all the same.
    """

    round: int | None
    stage: str
    told: str
    recipients: tuple[PeerId, ...]
    completed: bool
    mechanism: Mechanism | None
    federation: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON: all that another accountant needs."""
        found: dict[str, object] = {
            "round": self.round,
            "stage": self.stage,
            "told": self.told,
            "recipients": list(self.recipients),
            "completed": self.completed,
        }
        if self.federation:
            found["federation"] = self.federation
        if (entry := self.mechanism) is not None:
            found |= {
                "subject": entry.subject,
                "kind": entry.kind,
                "noise_multiplier": entry.noise_multiplier,
                "sampling_rate": entry.sampling_rate,
                "count": entry.count,
                "members": entry.members,
                "minimum_survivors": entry.minimum_survivors,
                "colluders": entry.colluders,
                "spent": entry.spent,
            }
        return found

    def line(self) -> str:
        """One row of a table under :data:`HEADER`."""
        noise, rate, times = "-", "-", "-"
        if (entry := self.mechanism) is not None:
            noise, rate, times = (
                f"{entry.noise_multiplier:.4f}",
                f"{entry.sampling_rate:.4g}",
                f"{entry.count}",
            )
        where = f", in federation {self.federation[:12]}…" if self.federation else ""
        what = f"{self.stage}: {self.told}, to {self._whom()}{where}"
        lost = "" if self.completed else " (the round was lost)"
        round = "before" if self.round is None else self.round
        return f"{round:>7}{noise:>10}{rate:>8}{times:>7}  {what}{lost}"

    def _whom(self) -> str:
        if self.recipients:
            return " ".join(f"…{peer[-6:]}" for peer in self.recipients)
        return "its group" if self.mechanism is None else f"a group of {self.mechanism.members}"


HEADER = f"{'round':>7}{'noise':>10}{'sample':>8}{'times':>7}  what was told, and to whom"


def releases(
    manifest: Manifest, charges: Sequence[Charge], outcomes: Sequence[RoundOutcome]
) -> list[Release]:
    """The ledger of a node of ``manifest``, oldest first, with how its rounds ended."""
    told = _TOLD_OF_ORGANISATION if manifest.privacy.mode == "organisation" else _TOLD
    ended = {outcome.round: outcome for outcome in outcomes}
    found = []
    for charge in charges:
        outcome, entry = ended.get(charge.round), charge.mechanism
        stage = entry.stage if entry is not None else outcome.stage if outcome is not None else "unknown"
        found.append(
            Release(
                charge.round,
                stage,
                "nothing about records" if entry is None else told[stage],
                charge.recipients or (() if outcome is None else outcome.members),
                outcome is not None and outcome.completed,
                entry,
            )
        )
    return found


def carried_releases(carried: Iterable[Carried]) -> list[Release]:
    """What a ledger has carried over, oldest federation first."""
    found = []
    for one in carried:
        for entry in one.mechanisms:
            told = _TOLD_OF_ORGANISATION if entry.subject == "organisation" else _TOLD
            what = (entry.stage, told[entry.stage], (), True, entry)
            found.append(Release(None, *what, federation=one.federation.hex()))
    return found
