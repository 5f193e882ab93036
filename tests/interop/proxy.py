"""A TCP proxy that stands between two sides and can fail: as a network does, or as a balancer whose backends come and go.

Each connection goes to the next of the targets that takes it, and comes there from the address of its client.
"""

import asyncio
import contextlib
import itertools
import threading


class Proxy:
    """Runs in a thread of its own, from when it is made until `close`."""

    def __init__(self, *targets, port=0):
        self.targets, self.turn = list(targets), itertools.count()
        self.connections, self.refusing = set(), False
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.open = self.do(self.make_gate())
        self.port = self.do(self.listen(port))

    def do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def make_gate(self):
        gate = asyncio.Event()
        gate.set()
        return gate

    async def listen(self, port):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port, backlog=1024)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        gate = self.open
        await gate.wait()
        source = writer.get_extra_info("peername")
        if source and not self.refusing:
            for _ in self.targets:
                target = self.targets[next(self.turn) % len(self.targets)]
                with contextlib.suppress(OSError):
                    there = await asyncio.open_connection("127.0.0.1", target, local_addr=(source[0], 0))
                    break
            else:
                there = None
            if there:
                connection = (writer, there[1])
                self.connections.add(connection)
                await asyncio.gather(self.pump(reader, there[1], gate), self.pump(there[0], writer, gate))
                self.connections.discard(connection)
        writer.close()

    async def pump(self, reader, writer, gate):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await gate.wait()
                writer.write(data)
                await writer.drain()
        await gate.wait()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()

    # The faults.

    def blackhole(self):
        """Takes every connection and forwards nothing more on any."""
        self.loop.call_soon_threadsafe(lambda: self.open.clear())

    def heal(self):
        """What was held back goes on its way."""
        self.loop.call_soon_threadsafe(lambda: self.open.set())

    def heal_for_others(self):
        """What was held back stays so for ever, and so do the connections of then; new ones work."""
        async def replace():
            self.open = await self.make_gate()
        self.do(replace())

    def refuse(self):
        """Ends all connections and takes no more until `accept`."""
        async def end():
            self.refusing = True
            self.server.close()
            for writers in list(self.connections):
                for writer in writers:
                    writer.transport.abort()
        self.do(end())

    def accept(self):
        self.refusing = False
        self.do(self.listen(self.port))

    def close(self):
        self.refuse()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
