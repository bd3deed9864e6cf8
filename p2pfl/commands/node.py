"""``p2pfl node``: the daemon."""

import argparse
import os
from pathlib import Path

from p2pfl.node.config import SETTINGS, NodeConfig, load_config
from p2pfl.node.errors import UsageError
from p2pfl.terminal import alarm

_EPILOG = (
    "Every option is also a key of the config file and an environment variable; options win over variables,"
    " variables over the file (docs/configuration.md). Stop the node with Ctrl-C or SIGTERM: it leaves the"
    " round cleanly, and resumes where it was when started again. Closing its terminal stops it too, unless"
    " it was started with nohup."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl node``: the config file, every setting, and how to end."""
    parser.description = (
        "Run this organisation's node: join the federation, train on the data here, average with the others."
        " The data never leaves this machine; what does is masked and, unless the manifest says otherwise,"
        " noised."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the node's TOML, as `p2pfl init` writes it"
    )
    for setting in SETTINGS:
        text = f"{setting.help} [{setting.variable}]"
        if not setting.metavar:
            parser.add_argument(
                setting.option, dest=setting.field, action="store_true", default=None, help=text
            )
        else:
            parser.add_argument(
                setting.option,
                dest=setting.field,
                metavar=setting.metavar,
                action="append" if setting.repeatable else "store",
                help=text + ("; may be repeated" if setting.repeatable else ""),
            )
    parser.add_argument(
        "--check",
        action="store_true",
        help="start nothing: check the directory, from the key to the journal and the data, and say what is"
        " wrong; the node may be running meanwhile",
    )
    parser.add_argument("--json", action="store_true", help="with --check: print JSON")
    parser.add_argument(
        "--until-done", action="store_true", help="end when the federation has finished its rounds"
    )


def run(options: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop. What can be checked is checked before anything begins."""
    from p2pfl.logs import start_logging
    from p2pfl.node.libraries import uncollected
    from p2pfl.node.limits import limit_threads
    from p2pfl.node.reload import ignore_until_running
    from p2pfl.node.stop_signals import end_at_once_on_stop

    end_at_once_on_stop()
    ignore_until_running()
    given = {setting.field: getattr(options, setting.field) for setting in SETTINGS}

    def reread() -> NodeConfig:
        return load_config(options.config, os.environ, given)

    config = reread()
    if options.check:
        return _check(config, as_json=options.json)
    if options.json:
        raise UsageError("--json goes with --check", "for logs in JSON give --json-logs")
    start_logging(config.log_level, as_json=config.json_logs)
    limit_threads(config.threads)

    with uncollected():
        from p2pfl.node.start import prepared
    with prepared(config) as ready:
        with uncollected():
            from p2pfl.node.daemon import run_node
        return run_node(ready, until_done=options.until_done, reread=reread)


def _check(config: NodeConfig, *, as_json: bool) -> int:
    """Print what was found; the exit status is that of the first thing that is wrong."""
    import json

    from p2pfl.node.storage.check import check_directory

    found = []
    for one in check_directory(config):
        found.append(one)
        if not as_json:
            print(f"{one.name}: {one.said}" if one.fine else alarm(f"{one.name}: WRONG: {one.said}"))
            if one.hint:
                print(f"    {one.hint}")
    if as_json:
        print(json.dumps([one.as_dict() for one in found], indent=1))
    return next((one.exit_code for one in found if not one.fine), 0)
