"""Workers in this process, in others of this machine, or on a cluster: given something, they answer once."""

from __future__ import annotations

from diffusolve.workers.hands import Deaths, Died, Failed, Hands, OneHand, Order, Processes, with_device, workers_for

__all__ = ["Deaths", "Died", "Failed", "Hands", "OneHand", "Order", "Processes", "with_device", "workers_for"]
