"""What the shared answers of the first policy are kept by."""

from __future__ import annotations

from pathlib import Path

from prefrep.callbacks.first import processor

CORE = (
    "processor\t: {core}\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: {model}\n"
    "cpu MHz\t\t: {mhz}\ncache size\t: {cache} KB\nflags\t\t: avx2\n"
)


def test_processors_that_round_differently_have_other_names(tmp_path: Path) -> None:
    """Same instructions, other model or caches: libraries may cut sums at other places. Clocks and cores do not matter."""

    def name(model: int = 1, mhz: float = 2000.0, cache: int = 512, cores: int = 1) -> str:
        info = tmp_path / "cpuinfo"
        info.write_text("\n".join(CORE.format(core=core, model=model, mhz=mhz + core, cache=cache) for core in range(cores)))
        return processor(info)

    assert name() == name(mhz=2650.0) == name(cores=4)
    assert len({name(), name(model=17), name(cache=1024), processor(tmp_path / "missing")}) == 4
    assert processor() == processor()
