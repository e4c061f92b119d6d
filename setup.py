"""The compiled modules, and the README as the package index shows it; all else stands in pyproject.toml."""

import re
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Free-threaded interpreters have no stable ABI."""

WINDOWS, LINUX = (sysconfig.get_platform().startswith(system) for system in ("win", "linux"))

OPTIMISED = ["/O2"] if WINDOWS else ["-O3", "-std=c11", "-pthread", "-fno-math-errno", "-fno-trapping-math"]


def extension(name: str) -> Extension:
    """The compiled module `name`, from the C file that stands where it goes."""
    return Extension(
        name,
        [f"src/{name.replace('.', '/')}.c"],
        depends=[f"src/diffusolve/backends/_combine_{part}.h" for part in ("x86", "vectors")],
        define_macros=[("Py_LIMITED_API", "0x030A0000")] if LIMITED else [],
        py_limited_api=LIMITED,
        extra_compile_args=OPTIMISED,
        extra_link_args=[] if WINDOWS else ["-pthread", *(["-ldl"] if LINUX else [])],
        optional=True,  # without a compiler PyTorch and NumPy do the work, in more time
    )


REPOSITORY = "https://github.com/diffusolve/diffusolve"


def readme() -> str:
    """README.md with links that work outside of the repository."""
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:)", rf"\g<1>{REPOSITORY}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?!\w+:|#)", rf"\g<1>{REPOSITORY}/blob/main/", text)


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    ext_modules=[extension("diffusolve.backends._combine"), extension("diffusolve.randomness._normal")],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if LIMITED else {},
)
