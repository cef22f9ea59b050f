"""A pymodbus slave for the interoperability tests: slave.py tcp <port> | rtu <tty>.

Holding and input register i of unit u holds 1000*u + i; coil and discrete input i is
i odd. It has an identification (function 43/14). Prints "ready" once it listens.
"""
import asyncio
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.device import ModbusDeviceIdentification
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer

try:
    from pymodbus.framer import FramerType

    RTU = FramerType.RTU
except ImportError:  # before version 3.7, for example in Debian 12
    from pymodbus.transaction import ModbusRtuFramer as RTU

# A table begins at protocol address 0 where pymodbus has zero_mode. Where it has not, for
# example in Debian 13, protocol address 0 is a table's address 1.
ZERO_MODE = {"zero_mode": True} if hasattr(ModbusSlaveContext(), "zero_mode") else {}
FIRST = 0 if ZERO_MODE else 1


IDENTITY = ModbusDeviceIdentification(
    info_name={"VendorName": "Acme Meters", "ProductCode": "AM-7", "MajorMinorRevision": "2.11", "ModelName": "AM-7 three-phase"}
)


def context():
    slaves = {}
    for unit in (1, 2):
        registers = [1000 * unit + i for i in range(200)]
        bits = [i % 2 == 1 for i in range(200)]
        slaves[unit] = ModbusSlaveContext(
            di=ModbusSequentialDataBlock(FIRST, list(bits)),
            co=ModbusSequentialDataBlock(FIRST, list(bits)),
            hr=ModbusSequentialDataBlock(FIRST, list(registers)),
            ir=ModbusSequentialDataBlock(FIRST, list(registers)),
            **ZERO_MODE,
        )
    return ModbusServerContext(slaves=slaves, single=False)


async def main():
    print("ready", flush=True)
    if sys.argv[1] == "tcp":
        await StartAsyncTcpServer(context(), identity=IDENTITY, address=("127.0.0.1", int(sys.argv[2])))
    else:
        # No parity: a pseudo terminal has none, and pymodbus insists.
        await StartAsyncSerialServer(context(), identity=IDENTITY, framer=RTU, port=sys.argv[2], baudrate=19200)


asyncio.run(main())
