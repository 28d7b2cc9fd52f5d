"""What this line records, what its model takes and gives, and the words for it. Numpy-free, torch-free."""

from __future__ import annotations

from fleetmill.core.line import Feature, ModelSpec, Port

STEP_NS = 80_000_000  # 12.5 Hz

FEATURES = (
    Feature(name="camera", kind="observation", dtype="uint8", shape=(42, 48, 3), unit="1", hold_ns=STEP_NS),
    Feature(name="speed", kind="observation", dtype="float32", shape=(), unit="m/s", hold_ns=STEP_NS),
    Feature(name="steer", kind="action", dtype="float32", shape=(), unit="1", hold_ns=STEP_NS),
    Feature(name="model.steer", kind="extra", dtype="float32", shape=(), unit="1", hold_ns=STEP_NS),
    Feature(name="label.steer", kind="label", dtype="float32", shape=(), unit="1", hold_ns=STEP_NS),
    Feature(name="takeover", kind="extra", dtype="float32", shape=(), unit="1", hold_ns=STEP_NS),
)

MODEL = ModelSpec(
    inputs=(
        Port(name="camera", dtype="uint8", shape=(42, 48, 3), feature="camera"),
        Port(name="speed", dtype="float32", shape=(), feature="speed"),
    ),
    outputs=(Port(name="steer", dtype="float32", shape=(), feature="steer"),),
    rate_hz=12.5,
    latency_ns=10_000_000,
)
