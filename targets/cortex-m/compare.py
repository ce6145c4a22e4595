"""What the firmware needs from the models' data, and its answers against the host's. Standard library only.

    compare.py pictures DIGITS.npz FOLDER        FOLDER/digits.u8 for the firmware, FOLDER/digit-N.pgm for the host
    compare.py input REFERENCE.npz FILE          the bytes of the only array
    compare.py answers KILN MODELS FOLDER LOG NAME...
                                                 runs the host's models on the same inputs, compares with the firmware's LOG
    compare.py costs ELF FOLDER LOG REGIONS      flash, RAM, stack, and executed instructions of each run
"""
import ast
import pathlib
import struct
import subprocess
import sys
import zipfile

TOLERANCE = 1e-5


def read_npz(path):
    """Arrays of a .npz file by name: (shape, type string, bytes)."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            long = data[6] > 1
            start = 12 if long else 10
            length = struct.unpack_from("<I" if long else "<H", data, 8)[0]
            header = ast.literal_eval(data[start:start + length].decode())
            if header["fortran_order"]:
                raise SystemExit(f"{path}: {name} is in Fortran order")
            arrays[name.removesuffix(".npy")] = (header["shape"], header["descr"], data[start + length:])
    return arrays


def pictures(digits, folder):
    (count, height, width), kind, pixels = read_npz(digits)["pictures"]
    if kind not in ("|u1", "u1"):
        raise SystemExit(f"{digits}: pictures are of type {kind}, not uint8")
    (folder / "digits.u8").write_bytes(pixels)
    for i in range(count):
        picture = pixels[i * height * width:(i + 1) * height * width]
        (folder / f"digit-{i}.pgm").write_bytes(b"P5 %d %d 255\n" % (width, height) + picture)


def only_array(path):
    """Type string and bytes of a file's only array."""
    (_, kind, data), = read_npz(path).values()
    return kind, data


def host(kiln, model, given, folder):
    """Logits of one run on the host."""
    output = folder / "host.npz"
    subprocess.run([kiln, "run", model, given, "--output", output], check=True, stdout=subprocess.DEVNULL)
    _, kind, data = read_npz(output)["logits"]
    if kind != "<f4":
        raise SystemExit(f"{model}: logits are of type {kind}, not float32")
    return [x for x, in struct.iter_unpack("<f", data)]


def answers(kiln, models, folder, log, *names):
    """Lines `NAME NUMBER LABEL BITS...` of the log, against the host: prints the largest difference per model."""
    names = [str(name) for name in names]
    firmware = {}
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) > 3 and words[0] in names and words[1].isdigit():
            scores = [struct.unpack(">f", bytes.fromhex(bits))[0] for bits in words[3:]]
            firmware[words[0], int(words[1])] = (words[2], scores)
    sentences = (models / "data/sentences.txt").read_text().splitlines()
    digits = [folder / f"digit-{i}.pgm" for i in range(20)]
    passed = failed = 0
    for name in names:
        inputs, labels = (sentences, ["rotten", "fresh"]) if name.startswith("text") else (digits, [str(i) for i in range(10)])
        worst = 0.0
        for i, text_or_picture in enumerate(inputs):
            want = host(kiln, models / name / "model.onnx", text_or_picture, folder)
            label, got = firmware.get((name, i), ("nothing", []))
            difference = max(map(lambda a, b: abs(a - b), got, want), default=float("inf"))
            best = labels[want.index(max(want))]
            if len(got) == len(want) and difference <= TOLERANCE and label == best:
                passed += 1
            else:
                failed += 1
                print(f"FAILED: {name} {i}: the firmware says {label} {got}, the host {best} {want}")
            worst = max(worst, difference)
        print(f"{name}: {len(inputs)} inputs, largest difference to the host {worst:.2e}")
    print(f"firmware answers: {passed} passed, {failed} failed")
    return failed == 0 and passed > 0


def costs(elf, folder, log, regions):
    listing = subprocess.run(["arm-none-eabi-size", "-A", elf], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    size = {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[0].startswith(".")}
    code = sum(size.get(name, 0) for name in (".vector_table", ".text", ".rodata", ".data"))
    weights = 0
    for name in ("text-lstm", "digits-cnn"):
        image = (folder / f"{name}.kiln").read_bytes()
        share = struct.unpack_from("<I", image, 36 + 6 * 8 + 4)[0]  # see the byte table in src/image
        weights += share
        print(f"image {name}: {len(image)} bytes, {share} of them weights")
    print(f"flash without weights: {code + size['.images'] - weights} bytes: "
          f"{size['.text']} code, {size['.rodata']} constants (pictures and sentences among them), "
          f"{size['.vector_table']} vectors, {size.get('.data', 0)} data, {size['.images'] - weights} images without weights")
    said = {words[0]: words[1:] for line in log.read_text().splitlines() if (words := line.split())}
    runs = {words[1]: int(words[2]) for line in log.read_text().splitlines() if (words := line.split())[:1] == ["steps"]}
    print(f"RAM: {size.get('.data', 0) + size['.bss'] + size.get('.uninit', 0)} bytes static (the arena), {said['stack'][0]} stack")
    counts = [int(line.split()[-1]) for line in regions.read_text().splitlines() if line.startswith("# region")]
    for name in ("text-lstm", "digits-cnn"):
        mine, counts = counts[:runs[name]], counts[runs[name]:]
        print(f"instructions of one run of {name}: {min(mine)} to {max(mine)}, mean {sum(mine) // len(mine)} ({len(mine)} runs)")


if __name__ == "__main__":
    paths = [pathlib.Path(argument) for argument in sys.argv[2:]]
    match sys.argv[1:2], len(paths):
        case ["pictures"], 2:
            pictures(*paths)
        case ["input"], 2:
            paths[1].write_bytes(only_array(paths[0])[1])
        case ["answers"], n if n > 4:
            sys.exit(0 if answers(*paths) else 1)
        case ["costs"], 4:
            costs(*paths)
        case _:
            sys.exit(__doc__)
