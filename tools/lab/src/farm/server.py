"""A backend: answers each line with its name. Arguments: name, port."""
import asyncio
import sys


async def serve(reader, writer):
    name = sys.argv[1].encode() + b"\n"
    try:
        while True:
            writer.write(name)
            await writer.drain()
            if not await reader.readline():
                break
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[2]), backlog=4096)
    async with server:
        await server.serve_forever()


asyncio.run(main())
