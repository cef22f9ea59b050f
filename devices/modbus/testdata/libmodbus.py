"""A libmodbus slave for the interoperability tests: libmodbus.py tcp <port> | rtu <tty> <late>.

Holding and input register i holds 1000 + i; coil and discrete input i is i odd; 200 of
each. As unit 1 on a serial port, as every unit on TCP. Misbehaves for holding register
150 (answers after late seconds, on TCP 0.3), 151 (busy) and 152 (another unit, or transaction). Prints
"ready" once it listens. Debian has no binding, so the library itself is called.
"""
import ctypes
import sys
import time

COUNT = 200
READ_HOLDING = 3
BUSY = 6


class Mapping(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int) for name in ("nb_bits", "start_bits", "nb_input_bits", "start_input_bits",
                                           "nb_input_registers", "start_input_registers", "nb_registers", "start_registers")]
        + [("tab_bits", ctypes.POINTER(ctypes.c_uint8)), ("tab_input_bits", ctypes.POINTER(ctypes.c_uint8)),
           ("tab_input_registers", ctypes.POINTER(ctypes.c_uint16)), ("tab_registers", ctypes.POINTER(ctypes.c_uint16))]
    )


lib = ctypes.CDLL("libmodbus.so.5")
lib.modbus_new_tcp.restype = lib.modbus_new_rtu.restype = ctypes.c_void_p
lib.modbus_mapping_new.restype = ctypes.POINTER(Mapping)


def serve(context, mapping, late):
    query = (ctypes.c_uint8 * 260)()
    header = lib.modbus_get_header_length(context)
    while True:
        n = lib.modbus_receive(context, query)
        if n == -1:
            return
        if n == 0:  # for another unit
            continue
        address = query[header + 1] << 8 | query[header + 2]
        if query[header] == READ_HOLDING and address == 150:
            time.sleep(late)
        if query[header] == READ_HOLDING and address == 151:
            lib.modbus_reply_exception(context, query, BUSY)
            continue
        if query[header] == READ_HOLDING and address == 152:
            raw = (ctypes.c_uint8 * 5)(77, READ_HOLDING, 2, 0, 0)
            lib.modbus_send_raw_request(context, raw, 5)
            continue
        if lib.modbus_reply(context, query, n, mapping) == -1:
            return


def main():
    mapping = lib.modbus_mapping_new(COUNT, COUNT, COUNT, COUNT)
    for i in range(COUNT):
        mapping.contents.tab_bits[i] = mapping.contents.tab_input_bits[i] = i % 2
        mapping.contents.tab_registers[i] = mapping.contents.tab_input_registers[i] = 1000 + i
    if sys.argv[1] == "tcp":
        context = ctypes.c_void_p(lib.modbus_new_tcp(b"127.0.0.1", int(sys.argv[2])))
        listener = ctypes.c_int(lib.modbus_tcp_listen(context, 4))
        print("ready", flush=True)
        while lib.modbus_tcp_accept(context, ctypes.byref(listener)) != -1:
            serve(context, mapping, 0.3)
            lib.modbus_close(context)
    else:
        context = ctypes.c_void_p(lib.modbus_new_rtu(sys.argv[2].encode(), 19200, ctypes.c_char(b"N"), 8, 1))
        lib.modbus_set_slave(context, 1)
        lib.modbus_connect(context)
        print("ready", flush=True)
        while True:  # a damaged request ends nothing
            serve(context, mapping, float(sys.argv[3]))


main()
