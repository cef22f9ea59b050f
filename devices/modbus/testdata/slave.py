"""A pymodbus slave for the interoperability tests: slave.py tcp <port> | rtu <tty>.

Holding and input register i of unit u holds 1000*u + i; coil and discrete input i is
i odd. Prints "ready" once it listens.
"""
import asyncio
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer
from pymodbus.transaction import ModbusRtuFramer


def context():
    slaves = {}
    for unit in (1, 2):
        registers = [1000 * unit + i for i in range(200)]
        bits = [i % 2 == 1 for i in range(200)]
        slaves[unit] = ModbusSlaveContext(
            di=ModbusSequentialDataBlock(0, list(bits)),
            co=ModbusSequentialDataBlock(0, list(bits)),
            hr=ModbusSequentialDataBlock(0, list(registers)),
            ir=ModbusSequentialDataBlock(0, list(registers)),
            zero_mode=True,
        )
    return ModbusServerContext(slaves=slaves, single=False)


async def main():
    print("ready", flush=True)
    if sys.argv[1] == "tcp":
        await StartAsyncTcpServer(context(), address=("127.0.0.1", int(sys.argv[2])))
    else:
        # No parity: a pseudo terminal has none, and pymodbus insists.
        await StartAsyncSerialServer(context(), framer=ModbusRtuFramer, port=sys.argv[2], baudrate=19200)


asyncio.run(main())
