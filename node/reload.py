"""The configuration, read again while the node runs, on SIGUSR1 (`systemctl reload`).

What can change under a running node changes; of the rest the log says, by name, that it needs a restart. A
config that cannot be used changes nothing.
"""

import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace

import trio

from p2pfl.node.config import SETTINGS, NodeConfig, Setting
from p2pfl.node.errors import UserError

log = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR1
RELOADED = frozenset({"log_level", "bootstrap", "rendezvous", "memory"})
"""Fields of the config that take effect without a restart."""


def ignore_until_running() -> None:
    """For the time before anybody listens to the signal: it would end the process."""
    signal.signal(SIGNAL, signal.SIG_IGN)


class Reloader:
    """Applies what changes between ``config`` and what ``reread`` returns by ``apply``, which has a function
    for each field of :data:`RELOADED`.
    """

    def __init__(
        self,
        config: NodeConfig,
        reread: Callable[[], NodeConfig],
        apply: Mapping[str, Callable[[NodeConfig], None]],
    ) -> None:
        assert apply.keys() == RELOADED
        self._config = config
        self._reread = reread
        self._apply = apply

    async def run(self) -> None:
        """Listen to the signal until cancelled."""
        with trio.open_signal_receiver(SIGNAL) as signals:
            async for _ in signals:
                await self.reload()

    async def reload(self) -> None:
        """Read the config again, and do what it says as far as that can be done now."""
        try:
            new = await trio.to_thread.run_sync(self._reread)
        except UserError as error:
            log.error("the configuration is not reloaded: %s; %s", error.what, error.hint)
            return
        changed = [
            setting
            for setting in SETTINGS
            if getattr(new, setting.field) != getattr(self._config, setting.field)
        ]
        for setting in changed:
            if setting.field in RELOADED:
                self._take(setting, new)
            else:
                log.warning("%s changed: that needs a restart", setting.name)
        if not changed:
            log.info("the configuration is what it was")

    def _take(self, setting: Setting, new: NodeConfig) -> None:
        try:
            self._apply[setting.field](new)
        except UserError as error:
            log.error("%s stays as it was: %s; %s", setting.name, error.what, error.hint)
        else:
            self._config = replace(self._config, **{setting.field: getattr(new, setting.field)})
            log.warning("%s reloaded", setting.name)
