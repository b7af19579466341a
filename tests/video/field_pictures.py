"""H.264 frames coded as two fields, each in a packet of its own, which no encoder at hand writes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

WIDTH = HEIGHT = 64


class _Bits:
    def __init__(self) -> None:
        self._bits = ""

    def u(self, count: int, value: int) -> _Bits:
        self._bits += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> _Bits:
        """Exponential Golomb codes."""
        for value in values:
            code = f"{value + 1:b}"
            self._bits += "0" * (len(code) - 1) + code
        return self

    def align(self, bit: str = "0") -> _Bits:
        self._bits += bit * (-len(self._bits) % 8)
        return self

    def raw(self, content: bytes) -> _Bits:
        self._bits += "".join(f"{byte:08b}" for byte in content)
        return self

    def nal(self, header: int) -> bytes:
        """An Annex B unit with the stop bit and emulation prevention."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        escaped, zeros = bytearray(), 0
        for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                escaped.append(3)
                zeros = 0
            zeros = zeros + 1 if byte == 0 else 0
            escaped.append(byte)
        return b"\0\0\0\1" + bytes([header]) + bytes(escaped)


def _headers() -> bytes:
    sps = _Bits().u(8, 77).u(8, 0).u(8, 30).ue(0, 0, 2, 1).u(1, 0)  # Main profile, order as decoded
    sps.ue(WIDTH // 16 - 1, HEIGHT // 32 - 1).u(1, 0).u(1, 0).u(1, 1).u(1, 0).u(1, 0)  # fields allowed
    pps = _Bits().ue(0, 0).u(1, 0).u(1, 0).ue(0, 0, 0).u(1, 0).u(2, 0).ue(0, 0, 0).u(1, 1).u(1, 0).u(1, 0)
    return sps.nal(0x67) + pps.nal(0x68)


def _field(number: int, *, bottom: bool) -> bytes:
    """A field of uncompressed macroblocks: the number in eight bars, as in numbered_picture."""
    is_idr = number == 0 and not bottom
    slice_ = _Bits().ue(0, 7, 0).u(4, number % 16).u(1, 1).u(1, int(bottom))
    if is_idr:
        slice_.ue(0).u(2, 0)
    else:
        slice_.u(1, 0)
    slice_.ue(0, 1)  # same quantizer, no deblocking
    row = [235 if number >> (8 * x // WIDTH) & 1 else 16 for x in range(WIDTH)]
    for _ in range(HEIGHT // 32):
        for left in range(0, WIDTH, 16):
            slice_.ue(25).align().raw(bytes(row[left : left + 16]) * 16 + bytes([128]) * 128)
    return slice_.nal(0x65 if is_idr else 0x61)


def write_fields(path: Path, num_frames: int, fps: int) -> Path:
    """Write numbered frames as fields, one to a packet with its own timestamp."""
    raw = path.with_suffix(".h264")
    fields = [
        (_headers() if number == 0 and not bottom else b"") + _field(number, bottom=bottom)
        for number in range(num_frames)
        for bottom in (False, True)
    ]
    raw.write_bytes(b"".join(fields))
    with av.open(str(raw)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for place, field in enumerate(fields):
            packet = av.Packet(field)
            packet.pts = packet.dts = place
            packet.time_base = Fraction(1, 2 * fps)
            packet.is_keyframe = place == 0
            packet.stream = stream
            target.mux(packet)
    return path
