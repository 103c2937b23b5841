"""Replicas: many runs of one shape trained at once, each to the numbers that it would reach alone."""

from hf_icl.replicas.train import train_replicas
from hf_icl.stacking import can_stack, check_replicas

__all__ = ["can_stack", "check_replicas", "train_replicas"]
