"""Long-lived connections. Arguments: address, port. A command a line on standard input, an answer in JSON each:

open N      opens N more connections, and learns who answers each
round S     says something on every connection and waits S seconds at most for the answer of the same server;
            those that were reset, closed, answered by somebody else or not at all are broken, and given up
"""
import asyncio
import collections
import json
import sys

connections = []


async def open_one(limit):
    async with limit:
        reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
        name = await reader.readline()
        if name:
            connections.append((name, reader, writer))


async def ask(connection, seconds):
    name, reader, writer = connection
    try:
        writer.write(b"?\n")
        answer = await asyncio.wait_for(reader.readline(), seconds)
    except asyncio.TimeoutError:
        return "silent"
    except OSError:
        return "reset"
    return "ok" if answer == name else "reset" if not answer else "moved"


async def command(words):
    global connections
    if words[0] == "open":
        limit = asyncio.Semaphore(100)
        before = len(connections)
        ends = await asyncio.gather(*(open_one(limit) for _ in range(int(words[1]))), return_exceptions=True)
        errors = [str(end) for end in ends if end is not None]
        answers = {"opened": len(connections) - before, "errors": errors[:3]}
    else:
        ends = await asyncio.gather(*(ask(each, float(words[1])) for each in connections))
        answers = {"ok": 0, "reset": 0, "silent": 0, "moved": 0, **collections.Counter(ends)}
        lost = [each for each, end in zip(connections, ends) if end != "ok"]
        answers["lost"] = collections.Counter(name.decode().strip() for name, _, _ in lost)
        for _, _, writer in lost:
            writer.transport.abort()
        connections = [each for each, end in zip(connections, ends) if end == "ok"]
    answers["servers"] = collections.Counter(name.decode().strip() for name, _, _ in connections)
    return answers


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await command(line.split())), flush=True)


asyncio.run(main())
