"""The lab as a Space: the page of ``diffusolve lab``, open to all."""

from diffusolve.lab.serve import serve

serve("emoji", "0.0.0.0", 7860)
