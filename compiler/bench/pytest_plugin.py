"""A pytest plugin: the gates of `slc bench` as tests.

    @pytest.mark.slc_artifact("out/encoder", max_slowdown="3%")
    def test_encoder_is_no_slower(slc_latency):
        slc_latency()

    $ pytest --slc-base ../base/out

compares out/encoder with ../base/out/encoder. What could not be decided is neither a pass nor a
failure: it is reported as inconclusive, which `--slc-inconclusive fail` turns into a failure.
Imported by every pytest run where slc is installed: nothing heavy before a test asks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from slc.compiler.bench.report import BenchReport

INCONCLUSIVE = "inconclusive: "
_CATEGORY = "inconclusive"
_MARKER = (
    "slc_artifact(path, **options): the artifact that slc_latency holds against the one of its "
    "name in --slc-base; options are fields of slc.compiler.bench.request.BenchRequest, such as "
    "max_slowdown='3%' or max_p90_ms=12"
)

Check = Callable[..., "BenchReport"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("slc", "latency of slc artifacts")
    group.addoption(
        "--slc-base", type=Path, metavar="DIR", help="folder with the base artifacts, by name"
    )
    group.addoption(
        "--slc-artifacts", type=Path, metavar="DIR",
        help="folder that the paths of slc_artifact are in; left out: the root of the tests",
    )  # fmt: skip
    group.addoption("--slc-max-slowdown", metavar="SHARE", help="where a marker says none: 5%%")
    group.addoption(
        "--slc-time-limit", type=float, metavar="SECONDS", help="where a marker says none: 60"
    )
    group.addoption(
        "--slc-inconclusive", choices=("skip", "fail"), default="skip",
        help="what a comparison that can't be decided is: reported as inconclusive, or a failure",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known to --strict-markers."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def slc_latency(request: pytest.FixtureRequest) -> Check:
    """A function that runs the three gates on the test's artifact, and fails the test by them.

    It takes an artifact's path instead of the marker's, and options of BenchRequest; it returns the
    report.
    """
    marker = request.node.get_closest_marker("slc_artifact")

    def check(artifact: Path | str | None = None, **options: Any) -> BenchReport:
        if artifact is None and (marker is None or len(marker.args) != 1):
            raise pytest.UsageError(
                f"{request.node.nodeid}: slc_latency needs @pytest.mark.slc_artifact(PATH), or a "
                "path when it is called"
            )
        path = Path(marker.args[0] if artifact is None and marker is not None else artifact or "")
        given = {**(marker.kwargs if marker is not None else {}), **options}
        return run_gates(request.config, path, given)

    return check


def run_gates(config: pytest.Config, path: Path, given: dict[str, Any]) -> BenchReport:
    """Fails or skips the running test as `slc bench` would exit with 1 or 3.

    Args:
      config: with the plugin's options.
      path: of the artifact, in --slc-artifacts.
      given: options of BenchRequest.
    """
    from slc.compiler.bench.bench import bench
    from slc.compiler.errors import SlcError
    from slc.targets import TargetError

    base = config.getoption("--slc-base")
    if base is None and "max_p90_ms" not in given:
        pytest.skip(f"{path} has no base to be held against: add --slc-base DIR")
    folder = config.getoption("--slc-artifacts") or config.rootpath
    try:
        against = None if base is None else base / path.name
        report = bench(folder / path, against=against, request=_request(config, given))
    except (SlcError, TargetError) as error:
        wrong = " ".join(str(error).split())
    else:
        return _judge(config, path, report)
    pytest.fail(wrong, pytrace=False)


def _judge(config: pytest.Config, path: Path, report: BenchReport) -> BenchReport:
    """Ends the running test unless the report is a pass."""
    from slc.compiler.bench.tables import lines, machine_line

    text = "\n".join([*lines(report), f"on {machine_line(report)}"])
    if report.verdict == "failed":
        pytest.fail(f"{path} does not hold against its base\n{text}", pytrace=False)
    if report.verdict == "inconclusive":
        if config.getoption("--slc-inconclusive") == "fail":
            pytest.fail(f"{path} could not be judged\n{text}", pytrace=False)
        pytest.skip(INCONCLUSIVE + "; ".join(report.doubts()))
    return report


def _request(config: pytest.Config, given: dict[str, Any]) -> Any:
    from slc.compiler.bench.request import BenchRequest
    from slc.compiler.errors import RequestError

    defaults = {
        "max_slowdown": config.getoption("--slc-max-slowdown"),
        "time_limit_s": config.getoption("--slc-time-limit"),
    }
    options = {**{k: v for k, v in defaults.items() if v is not None}, **given}
    try:
        return BenchRequest(**options)
    except TypeError as error:
        fields = ", ".join(BenchRequest.__dataclass_fields__)
        raise RequestError(f"slc_artifact: {error}; the options are {fields}") from error


def _reason(report: pytest.TestReport) -> str | None:
    """Why a test was inconclusive; None if it was not."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return None
    reason = report.longrepr[2].removeprefix("Skipped: ")
    return reason if reason.startswith(INCONCLUSIVE) else None


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: object) -> tuple[str, str, str] | None:
    """Inconclusive tests are a category of their own, not skipped ones."""
    if isinstance(report, pytest.TestReport) and _reason(report) is not None:
        return _CATEGORY, "?", "INCONCLUSIVE"
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each: pytest itself lists only the categories it knows."""
    for report in terminalreporter.stats.get(_CATEGORY, []):
        terminalreporter.write_line(f"INCONCLUSIVE {report.nodeid} - {_reason(report)}")
