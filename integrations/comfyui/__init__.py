"""diffusolve's samplers, schedules and plans as nodes of ComfyUI. This folder goes into ComfyUI's ``custom_nodes``."""

from pathlib import Path

if Path(__file__).parent.name == "diffusolve":  # where custom_nodes is a place that Python imports from
    raise ImportError("this folder is called diffusolve, as the library is, and hides it: call it diffusolve-nodes.")

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
