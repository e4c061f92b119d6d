"""The compiled module; all else about the package stands in pyproject.toml."""

import sysconfig

from setuptools import Extension, setup

LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Free-threaded interpreters have no stable ABI."""

WINDOWS = sysconfig.get_platform().startswith("win")

setup(
    ext_modules=[
        Extension(
            "diffusolve.backends._combine",
            ["src/diffusolve/backends/_combine.c"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")] if LIMITED else [],
            py_limited_api=LIMITED,
            extra_compile_args=["/O2"] if WINDOWS else ["-O3", "-std=c11", "-pthread"],
            extra_link_args=[] if WINDOWS else ["-pthread"],
            optional=True,  # without a compiler PyTorch does the work, in more time
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if LIMITED else {},
)
