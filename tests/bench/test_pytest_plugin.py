"""The plugin in a pytest of its own: pass, fail, inconclusive, and what is asked wrongly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bench.planted import make_dense

from slc.compiler.bench import gate_paired

pytest_plugins = ["pytester"]

TESTS = """
    import pytest

    @pytest.mark.slc_artifact("base", threads=1, max_slowdown="1000%", max_growth="1000%")
    def test_gates(slc_latency):
        assert slc_latency().verdict == "passed"
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_paired, "PAIR_SECONDS", 0.05)


def run(pytester: pytest.Pytester, text: str, *options: object) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess("-ra", "-p", "no:cacheprovider", *map(str, options))


def test_passes(pytester: pytest.Pytester, mlp_base: Path) -> None:
    folder = mlp_base.parent
    result = run(pytester, TESTS, "--slc-base", folder, "--slc-artifacts", folder)
    result.assert_outcomes(passed=1)


def test_fails_with_names(pytester: pytest.Pytester, mlp_base: Path, tmp_path: Path) -> None:
    make_dense(mlp_base, tmp_path / "base", ["layer1"])
    options = ("--slc-base", mlp_base.parent, "--slc-artifacts", tmp_path)
    result = run(pytester, TESTS.replace("threads=1,", "counts_only=True,"), *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["base does not hold against its base", "failed: * layer1 *", "likely cause: 1 Linears *"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("option", ["skip", "fail"])
def test_inconclusive(pytester: pytest.Pytester, mlp_base: Path, option: str) -> None:
    text = TESTS.replace("threads=1,", "threads=1, time_limit_s=2,")
    options = ["--slc-base", mlp_base.parent, "--slc-artifacts", mlp_base.parent]
    result = run(pytester, text, *options, "--slc-inconclusive", option)
    if option == "fail":
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["base could not be judged", "inconclusive: *--time-limit*"])
        return
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["INCONCLUSIVE *::test_gates - inconclusive: *", "* 1 inconclusive*"]
    )


def test_without_a_base_it_is_skipped(pytester: pytest.Pytester, mlp_base: Path) -> None:
    result = run(pytester, TESTS, "--slc-artifacts", mlp_base.parent)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*add --slc-base DIR*"])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (('"base"', '"nowhere"'), "*nowhere is not an artifact folder*"),
        (('"1000%", max', '"5", max'), "*--max-slowdown: got '5', wanted a percentage*"),
        (("threads", "thread"), "*unexpected keyword argument 'thread'*"),
        (('"base", ', ""), "*slc_latency needs @pytest.mark.slc_artifact(PATH)*"),
    ],
)
def test_mistakes_are_a_sentence(
    pytester: pytest.Pytester, mlp_base: Path, change: tuple[str, str], wanted: str
) -> None:
    folder = mlp_base.parent
    text = TESTS.replace(*change)
    result = run(pytester, text, "--slc-base", folder, "--slc-artifacts", folder)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([wanted])


def test_it_costs_other_tests_nothing() -> None:
    """Every pytest run imports it."""
    script = (
        "import sys, pytest\nbefore = {*sys.modules}\nimport slc.compiler.bench.pytest_plugin\n"
        "print(sorted({*sys.modules} - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    names = {name.split(".")[0] for name in eval(done.stdout)}
    assert names == {"slc"}
