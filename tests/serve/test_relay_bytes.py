"""What goes over the sockets, byte by byte and write by write, and when the gateway stops waiting for more of it."""

from __future__ import annotations

import asyncio
import json

import pytest
import uvloop

from fleetmill.serve import watch
from fleetmill.serve.http import Reply
from fleetmill.serve.said import Said, Turn
from simulated import Engine, stage

CHAT = {"model": "small", "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}


class Kept:
    """A transport that keeps each write."""

    def __init__(self):
        self.writes = []

    def write(self, data):
        self.writes.append(data)

    def is_closing(self):
        return False


def test_a_second_answer_behind_the_one_that_was_asked_for_reaches_nobody():
    asked = []

    async def serve(reader, writer):
        asked.append(0)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
                asked[-1] += 1
                one = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n%d%d" % (len(asked), asked[-1])
                writer.write(one + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nXX")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run():
        raw = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{raw.sockets[0].getsockname()[1]}"
        async with stage([Engine("a")], a={"address": address}) as s:
            found = [(await s.ask(CHAT))[2] for _ in range(3)]
        raw.close()
        await asyncio.sleep(0)
        return found

    assert uvloop.run(run()) == [b"11", b"21", b"31"]  # and its connection is not used again
    assert asked == [1, 1, 1]


def test_the_head_goes_out_with_the_first_piece_and_the_end_with_the_last():
    kept = Kept()
    reply = Reply(kept, keep=True)
    reply.begin(200, kind=b"text/event-stream", hold=True)
    assert kept.writes == []
    reply.piece(b"one")
    reply.piece(b"two")
    reply.end(b"three")
    reply.flush()
    assert [w.count(b"\r\n") for w in kept.writes] == [4 + 1 + 2, 2, 2 + 2]
    assert b"".join(kept.writes).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")


def test_a_head_that_nothing_follows_yet_goes_out_alone():
    kept = Kept()
    reply = Reply(kept, keep=False)
    reply.begin(200, kind=b"text/event-stream", hold=True)
    reply.flush()
    reply.end()
    assert len(kept.writes) == 2
    assert kept.writes[0].endswith(b"connection: close\r\n\r\n")
    assert kept.writes[1] == b"0\r\n\r\n"


def test_a_client_sees_the_head_before_the_first_word():
    async def run():
        async with stage([Engine("a", delay=0.2)]) as s:
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port)
            body = json.dumps({"model": "small", "stream": True, "max_tokens": 2, "prompt": "hello|"}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-test\r\n"
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            first = await reader.read(65536)
            writer.close()
            return first

    assert uvloop.run(run()).endswith(b"\r\n\r\n")


class Answered:
    """An answer that is all here, or only begun."""

    def __init__(self, pieces, is_whole):
        self.pieces, self.is_whole = pieces, is_whole

    def listen(self, on_body, on_end):
        for piece in self.pieces:
            on_body(piece)
        on_end(self.is_whole)

    def cut(self):
        pass


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_wherever_an_answer_is_cut_its_whole_events_go_on_as_they_are(end):
    said = b"".join(b'data: {"choices": [{"delta": {"content": "%d"}}]}' % n + end for n in range(2))
    whole = said + b"data: [DONE]" + end

    async def turn(pieces):
        kept, so_far = Kept(), Said()
        reply = Reply(kept, keep=True)
        one = Turn(so_far, Answered(pieces, True), reply, resumed=0, seconds=9, first=9, spoke=lambda: None)
        await one.run()
        reply.end(one.last)
        return b"".join(kept.writes), so_far.spoken.text, one.is_done

    async def run():
        return [await turn([whole[:at], whole[at:]]) for at in range(1, len(whole))]

    for sent, text, is_done in uvloop.run(run()):
        assert (text, is_done, sent.count(b"[DONE]"), sent.count(b"data: ")) == ("01", True, 1, 3)
        assert sent.endswith(b"\r\n0\r\n\r\n")


class Loop:
    """Time that is set by hand."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def time(self):
        return self.now

    def call_later(self, seconds, call):
        timer = Timer(self.now + seconds, call)
        self.timers.append(timer)
        return timer

    def until(self, now):
        while due := sorted((t for t in self.timers if t.at <= now), key=lambda t: t.at):
            self.now = due[0].at
            self.timers.remove(due[0])
            due[0].ring()
        self.now = now


class Timer:
    def __init__(self, at, call):
        self.at, self.ring = at, call

    def cancel(self):
        self.ring = lambda: None


@pytest.fixture
def loop(monkeypatch):
    made = Loop()
    monkeypatch.setattr(watch.asyncio, "get_running_loop", lambda: made)
    return made


def test_an_alarm_rings_when_it_was_last_set_for_and_one_timer_is_enough(loop):
    rung = []
    alarm = watch.Alarm(lambda: rung.append(loop.now))
    for at in range(9):
        loop.until(float(at))
        alarm.set(10.0)
        alarm.stop()
        alarm.set(10.0)
    assert len(loop.timers) == 1
    loop.until(100.0)
    assert rung == [18.0]


def test_an_alarm_that_is_set_for_sooner_or_stopped_or_closed(loop):
    rung = []
    alarm = watch.Alarm(lambda: rung.append(loop.now))
    alarm.set(60.0)
    alarm.set(2.0)
    loop.until(5.0)
    assert rung == [2.0]
    alarm.set(10.0)
    alarm.stop()
    loop.until(50.0)
    alarm.set(10.0)
    alarm.close()
    loop.until(100.0)
    assert rung == [2.0]


@pytest.mark.parametrize(
    ("signs", "paused", "over"),
    [([], [], 60.0), ([1.0], [], 22.5), ([1.0, 20.0, 29.0], [], 45.0), ([1.0], [(9.0, 80.0)], 90.0)],
)
def test_a_server_is_dead_that_does_not_begin_or_is_silent_twice(loop, signs, paused, over):
    class Done:
        at = None

        def get_loop(self):
            return loop

        def done(self):
            return self.at is not None

        def set_result(self, value):
            assert value is False
            self.at = loop.now

    done = Done()
    one = watch.Watch(done, 15.0, first=60.0)
    for at in signs:
        loop.call_later(at, lambda: setattr(one, "is_silent", False))
    for begin, end in paused:
        loop.call_later(begin, lambda: setattr(one, "is_paused", True))
        loop.call_later(end, lambda: setattr(one, "is_paused", False))
    loop.until(200.0)
    assert done.at == over
