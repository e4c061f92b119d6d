"""A page to try samplers on: choose, run, compare, take the plan along. Needs gradio: pip install 'diffusolve[lab]'."""
