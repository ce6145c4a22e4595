//! The command line: `MODEL INPUTS OUTPUTS NAME:DTYPE:DIMS...`, in the order in which INPUTS holds the bytes.
//! OUTPUTS gets all outputs in the model's order, as `f32`.

#[path = "../../../run-image/src/marks.rs"]
pub mod marks;

/// An input.
pub struct Given {
    pub name: String,
    pub dtype: String,
    pub dims: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The model's path, its inputs and where its outputs go.
pub fn given() -> (String, Vec<Given>, String) {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("MODEL INPUTS OUTPUTS NAME:DTYPE:DIMS...");
    let (model, inputs, outputs) = (next(), next(), next());
    let mut bytes = &std::fs::read(inputs).expect("INPUTS can't be read")[..];
    let given = arguments.map(|argument| {
        let parts: Vec<&str> = argument.rsplitn(3, ':').collect();
        let [dims, dtype, name] = parts[..] else { panic!("{argument}: NAME:DTYPE:DIMS") };
        let dims: Vec<usize> = dims.split('x').filter(|d| !d.is_empty()).map(|d| d.parse().expect("a size")).collect();
        let size = match dtype {
            "F32" | "I32" => 4,
            "I64" => 8,
            "Bool" => 1,
            _ => panic!("{argument}: no such element type here"),
        };
        let (mine, rest) = bytes.split_at(size * dims.iter().product::<usize>());
        bytes = rest;
        Given { name: name.into(), dtype: dtype.into(), dims, bytes: mine.to_vec() }
    });
    (model, given.collect(), outputs)
}

/// Elements of little-endian bytes.
pub fn elements<const N: usize, T>(bytes: &[u8], of: fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|c| of(c.try_into().expect("a whole element"))).collect()
}

/// Writes the outputs.
pub fn write(path: &str, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(path, bytes).expect("OUTPUTS can't be written");
}
