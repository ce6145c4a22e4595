"""A runtime that is called from Python, as a process that serves runs in the words of `kiln bench --serve`.

    worker.py RUNTIME MODEL INPUTS.npz OUTDIR THREADS CONVERTED

The names of the outputs, a line each, stand in KILN_PEERS_OUTPUTS; KILN_PEERS_FLUSH, if not empty, has it take subnormal
numbers for zero. Importing a runtime is no part of opening a model.
"""

import ctypes
import gc
import importlib.util
import mmap
import os
import pathlib
import re
import sys
import time

import numpy as np


class Onnxruntime:
    """With all its optimisations; inputs and outputs are bound once."""

    def __init__(self, threads: int):
        import onnxruntime
        self.library, self.threads = onnxruntime, threads
        onnxruntime.set_default_logger_severity(4)

    def open(self, model: str, inputs: dict, _names: list):
        library = self.library
        options = library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        if os.environ.get("KILN_PEERS_FLUSH"):
            options.add_session_config_entry("session.set_denormal_as_zero", "1")
        session = library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.binding = session.io_binding()
        self.held = {place.name: library.OrtValue.ortvalue_from_numpy(inputs[place.name]) for place in session.get_inputs()}
        for name, value in self.held.items():
            self.binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            self.binding.bind_output(output.name)
        # What `session.run_with_iobinding` calls: its Python around it costs half a microsecond.
        call, bound = session._sess.run_with_iobinding, self.binding._iobinding
        return lambda: call(bound, None)

    def outputs(self) -> list:
        return self.binding.copy_outputs_to_cpu()


class PartialShape(ctypes.Structure):
    """`ov_partial_shape_t`."""
    _fields_ = [("rank", ctypes.c_int64 * 2), ("dims", ctypes.c_void_p)]


class Shape(ctypes.Structure):
    """`ov_shape_t`."""
    _fields_ = [("rank", ctypes.c_int64), ("dims", ctypes.POINTER(ctypes.c_int64))]


class Openvino:
    """By its C functions: a call of its Python ones costs some microseconds more. One stream, for latency, in f32, with the
    sizes of these inputs."""

    HOW = {"NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    # Of ov_element_type_e, in 2026.4.
    TYPES = {"f4": 4, "f8": 5, "i1": 7, "i4": 9, "i8": 10, "u1": 16, "?": 1}

    def __init__(self, threads: int):
        folder = pathlib.Path(importlib.util.find_spec("openvino").origin).parent / "libs"
        self.library = ctypes.CDLL(str(sorted(folder.glob("libopenvino_c.so*"))[0]))
        self.library.ov_get_last_err_msg.restype = ctypes.c_char_p
        self.how = self.HOW | {"INFERENCE_NUM_THREADS": str(threads)}
        self.core = self.made("core_create")

    def call(self, name: str, *arguments):
        if getattr(self.library, f"ov_{name}")(*arguments):
            said = (self.library.ov_get_last_err_msg() or b"?").decode(errors="replace").strip()
            raise ValueError(f"{name}: {said[-150:]}")

    def made(self, name: str, *arguments) -> ctypes.c_void_p:
        """What a function hands out by its last argument."""
        pointer = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(pointer))
        return pointer

    def open(self, model: str, inputs: dict, _names: list):
        read = self.made("core_read_model", self.core, model.encode(), None)
        shapes = (PartialShape * len(inputs))()
        for shape, array in zip(shapes, inputs.values()):
            dims = (ctypes.c_int64 * array.ndim)(*array.shape)
            self.call("partial_shape_create_static", ctypes.c_int64(array.ndim), dims, ctypes.byref(shape))
        names = (ctypes.c_char_p * len(inputs))(*(name.encode() for name in inputs))
        self.call("model_reshape", read, names, shapes, ctypes.c_size_t(len(inputs)))
        words = [ctypes.c_char_p(word.encode()) for pair in self.how.items() for word in pair]
        compiled = ctypes.c_void_p()
        self.call("core_compile_model", self.core, read, b"CPU", ctypes.c_size_t(len(words)), ctypes.byref(compiled), *words)
        self.library.ov_model_free(read)
        self.compiled = compiled
        self.request = self.made("compiled_model_create_infer_request", compiled)
        for name, array in inputs.items():
            self.view(self.made("infer_request_get_tensor", self.request, name.encode()))[...] = array
        infer, request = self.library.ov_infer_request_infer, self.request

        def run():
            if infer(request):
                raise ValueError("infer: " + (self.library.ov_get_last_err_msg() or b"?").decode(errors="replace"))
        return run

    def view(self, tensor: ctypes.c_void_p) -> np.ndarray:
        """A tensor's memory as an array."""
        kind, size, shape = ctypes.c_int(), ctypes.c_size_t(), Shape()
        self.call("tensor_get_element_type", tensor, ctypes.byref(kind))
        self.call("tensor_get_byte_size", tensor, ctypes.byref(size))
        self.call("tensor_get_shape", tensor, ctypes.byref(shape))
        types = {number: name for name, number in self.TYPES.items()}
        if kind.value not in types:
            raise ValueError(f"element type {kind.value} is not known here")
        if not size.value:
            return np.empty(shape.dims[:shape.rank], types[kind.value])
        memory = (ctypes.c_char * size.value).from_address(self.made("tensor_data", tensor).value)
        return np.frombuffer(memory, types[kind.value]).reshape(shape.dims[:shape.rank])

    def outputs(self) -> list:
        number = ctypes.c_size_t()
        self.call("compiled_model_outputs_size", self.compiled, ctypes.byref(number))
        nth = "infer_request_get_output_tensor_by_index"
        return [self.view(self.made(nth, self.request, ctypes.c_size_t(i))) for i in range(number.value)]


class Mnn:
    """Its own file; precision high is f32."""

    def __init__(self, threads: int):
        import MNN
        import MNN.numpy  # noqa: F401  (makes arrays of its variables readable)
        self.library, self.expr = MNN, MNN.expr
        settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
        self.runtime = MNN.nn.create_runtime_manager((settings,))

    def open(self, converted: str, inputs: dict, names: list):
        self.module = self.library.nn.load_module_from_file(converted, list(inputs), names, runtime_manager=self.runtime)
        fed = [self.variable(array) for array in inputs.values()]

        def run():
            self.made = self.module.forward(fed)
        return run

    def variable(self, array: np.ndarray):
        if array.dtype.kind in "ib":
            array = array.astype(np.int32)
        kind = {"f": self.expr.float, "i": self.expr.int, "u": self.expr.uint8}[array.dtype.kind]
        variable = self.expr.placeholder(list(array.shape), self.expr.NCHW, kind)
        variable.write(array)
        return variable

    def outputs(self) -> list:
        plain = [self.expr.convert(v, self.expr.NCHW) if v.data_format == self.expr.NC4HW4 else v for v in self.made]
        return [np.array(v.read()) for v in plain]


class Ncnn:
    """Its own files; no 16-bit types, pools for memory, as its own benchmark has them."""

    def __init__(self, threads: int):
        import ncnn
        self.library, self.threads = ncnn, threads

    def open(self, stem: str, inputs: dict, _names: list):
        # The program that the converter writes tells the blobs' names, and which axis is the batch, if there is one.
        text = pathlib.Path(f"{stem}.ncnn.py").read_text()
        batch = re.compile(r"batch_index=(\d+)")
        blobs = [(name, batch.search(rest)) for name, rest in re.findall(r'ex\.input\("(\w+)",(.*)', text)]
        wanted = re.findall(r'ex\.extract\("(\w+)"', text)
        net = self.library.Net()
        net.opt.num_threads = self.threads
        for option in dir(net.opt):
            if option.startswith("use_") and any(word in option for word in ("fp16", "bf16", "vulkan_compute")):
                setattr(net.opt, option, False)
        self.pools = self.library.UnlockedPoolAllocator(), self.library.PoolAllocator()
        net.opt.blob_allocator, net.opt.workspace_allocator = self.pools
        if net.load_param(f"{stem}.param") or net.load_model(f"{stem}.bin"):
            raise ValueError("a layer is unknown to it")
        fed = []
        for (name, axis), array in zip(blobs, inputs.values()):
            array = array.astype(np.int32) if array.dtype.kind == "i" else array
            fed.append((name, self.library.Mat(array, **({"batch_index": int(axis[1])} if axis else {})).clone()))
        self.net, self.last = net, {}

        def run():
            extractor = net.create_extractor()
            for name, mat in fed:
                extractor.input(name, mat)
            for name in wanted:
                status, self.last[name] = extractor.extract(name)
                if status:
                    raise ValueError(f"it does not compute {name}: status {status}")
        return run

    def outputs(self) -> list:
        return [np.array(mat) for mat in self.last.values()]


RUNTIMES = {"onnxruntime": Onnxruntime, "openvino": Openvino, "mnn": Mnn, "ncnn": Ncnn}


def resident_kb() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def flush_subnormals():
    """Has this thread, and those that it starts, take subnormal numbers for zero: bits 15 and 6 of the control register, by
    one instruction, for which Python has no word. x86-64 only."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\xae\x17\xc3")  # ldmxcsr [rdi]; ret
    load = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint32))(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    load(ctypes.byref(ctypes.c_uint32(0x1F80 | 0x8040)))
    FLUSHING.append(code)


FLUSHING = []  # holds the instruction


def forget_peak():
    """Importing may have taken more memory than is held now: from here on the peak is the model's."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def main(name: str, model: str, file: str, out: str, threads: str, converted: str):
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for the other side
    with np.load(file) as arrays:
        inputs = {key: np.ascontiguousarray(arrays[key]) if arrays[key].ndim else arrays[key] for key in arrays.files}
    if os.environ.get("KILN_PEERS_FLUSH"):
        flush_subnormals()
    runtime = RUNTIMES[name](int(threads))
    names = os.environ.get("KILN_PEERS_OUTPUTS", "").split("\n")
    gc.collect()
    forget_peak()
    base, start = resident_kb(), time.perf_counter_ns()
    run = runtime.open(converted or model, inputs, names)
    run()
    opened = time.perf_counter_ns() - start
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "out.npz", **{str(i): np.asarray(value) for i, value in enumerate(runtime.outputs())})
    print(f"ready open_ns={opened} base_kb={base}", file=talk, flush=True)
    gc.disable()
    clock = time.perf_counter_ns
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = clock()
            run()
            times.append(clock() - start)
        print(*times, file=talk, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (ValueError, KeyError, RuntimeError) as why:
        sys.exit(f"{why}")
