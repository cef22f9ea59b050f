"""A Modbus TCP slave of the lab, made of Debian's python3-pymodbus.

All four tables are there, addresses 0 to 9999, any unit id. Each write by a client is a
JSON line in the write log: time, table, address, values. Input register 0 counts the
seconds since the start; input register 1 is 215, for example 21.5 degrees.

Usage: modbus-slave.py ADDRESS PORT WRITE_LOG
"""

import datetime
import json
import sys
import threading
import time

from pymodbus import datastore
from pymodbus.server import StartTcpServer

SIZE = 10000

# Renamed in pymodbus 3.10.
DeviceContext = getattr(datastore, "ModbusDeviceContext", None) or datastore.ModbusSlaveContext


class Table(datastore.ModbusSequentialDataBlock):
    """A table that writes down who changed what. Its own address of protocol address 0
    differs between versions of pymodbus; main() finds it out."""

    offset = 0

    def __init__(self, name, values, log):
        super().__init__(0, list(values) + [0, 0])
        self.name, self.log = name, log

    def setValues(self, address, values):
        result = super().setValues(address, values)
        if self.log is not None:
            record = {
                "time": datetime.datetime.now(datetime.timezone.utc).isoformat(),
                "table": self.name,
                "address": address - self.offset,
                "values": [int(v) for v in values] if isinstance(values, (list, tuple)) else [int(values)],
            }
            self.log.write(json.dumps(record) + "\n")
            self.log.flush()
        return result


def count_seconds(table):
    start = time.monotonic()
    while True:
        table.values[table.offset] = int(time.monotonic() - start) & 0xFFFF
        time.sleep(0.25)


def main(address, port, path):
    with open(path, "a", encoding="utf-8") as log:
        coils, holding = Table("coils", [0] * SIZE, None), Table("holding", [0] * SIZE, None)
        discrete = Table("discrete", [a % 2 for a in range(SIZE)], None)
        inputs = Table("input", [0, 215] + [0] * (SIZE - 2), None)
        device = DeviceContext(di=discrete, co=coils, hr=holding, ir=inputs)
        probe = 7
        device.setValues(6, 0, [probe])
        Table.offset = holding.values.index(probe)
        device.setValues(6, 0, [0])
        if Table.offset:
            for table in (discrete, inputs):
                table.values = [0] * Table.offset + table.values[: -Table.offset]
        coils.log = holding.log = log
        threading.Thread(target=count_seconds, args=(inputs,), daemon=True).start()
        context = datastore.ModbusServerContext(device, single=True)
        print(f"modbus slave on {address}:{port}", flush=True)
        StartTcpServer(context=context, address=(address, port))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
