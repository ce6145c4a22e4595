//! An ONNX file without its weights.
//!
//! tract decodes a whole file, and copies every tensor twice on the way (a model of 531 MB takes 1.3 GB). So the file is
//! mapped, its protobuf walked by hand, and every initializer whose values take [`LARGE`] bytes or more, or lie in a file
//! of their own, is left out and noted: what type and shape it has and where its bytes are. What remains is small.

use super::deciding::deciding;
use super::hash::HashSet;
use super::wire::{Damaged, Field, Fields, put_bytes};
use crate::ModelError;
use crate::graph::Bytes;
use crate::tensor::DType;
use memmap2::Mmap;
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tract_onnx::pb::ModelProto;

/// Bytes of an initializer from which on it is left out. Smaller ones must stay constants that tract can see: shapes,
/// axes, parameters of batch normalisation.
pub(super) const LARGE: usize = 16 << 10;

// Field numbers of onnx.proto3.
const MODEL_GRAPH: u32 = 7;
const MODEL_METADATA: u32 = 14;
const GRAPH_NODE: u32 = 1;
const GRAPH_INITIALIZER: u32 = 5;
const GRAPH_INPUT: u32 = 11;
const GRAPH_OUTPUT: u32 = 12;

/// A weight that was left out.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    pub name: String,
    pub dtype: DType,
    pub dims: Vec<usize>,
    pub bytes: Bytes,
}

/// What is left of a file, and what was taken out.
pub(super) struct Skeleton {
    /// The model without the weights.
    pub model: ModelProto,
    /// The weights.
    pub weights: Vec<Weight>,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
}

/// The header of a tensor.
#[derive(Default)]
struct Header<'a> {
    name: &'a str,
    dims: Vec<i64>,
    data_type: i64,
    raw: Option<(usize, usize)>,
    external: bool,
    location: Option<&'a str>,
    offset: Option<&'a str>,
    length: Option<&'a str>,
}

impl<'a> Header<'a> {
    fn read(tensor: &Field<'a>) -> Result<Header<'a>, Damaged> {
        let mut header = Header::default();
        for field in tensor.fields()? {
            let field = field?;
            match field.number {
                1 => field.numbers(&mut header.dims)?,
                2 => header.data_type = field.number()?,
                8 => header.name = field.text()?,
                9 => header.raw = Some((field.offset, field.bytes()?.len())),
                13 => {
                    let (key, value) = entry(&field)?;
                    match key {
                        "location" => header.location = Some(value),
                        "offset" => header.offset = Some(value),
                        "length" => header.length = Some(value),
                        _ => {}
                    }
                }
                14 => header.external = field.number()? == 1,
                _ => {}
            }
        }
        Ok(header)
    }
}

/// Key and value of a `StringStringEntryProto`.
pub(super) fn entry<'a>(field: &Field<'a>) -> Result<(&'a str, &'a str), Damaged> {
    let (mut key, mut value) = ("", "");
    for field in field.fields()? {
        let field = field?;
        match field.number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// The element type with this number in ONNX, if Kiln knows it.
pub(super) fn dtype(number: i64) -> Option<DType> {
    Some(match number {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        _ => return None,
    })
}

/// ONNX's number of an element type.
pub(super) fn dtype_number(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::U16 => 4,
        DType::I16 => 5,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::U32 => 12,
        DType::U64 => 13,
        DType::BF16 => 16,
    }
}

/// Takes the weights out of a file.
///
/// # Errors
/// [`ModelError::Format`] when the bytes are not an ONNX model, or a weight's bytes are not where they should be.
pub(super) fn read(path: &Path, file: &Arc<Mmap>) -> Result<Skeleton, ModelError> {
    let bad = |what: String| ModelError::Format { path: path.to_path_buf(), what };
    let damaged = |what: Damaged| bad(format!("this is not an ONNX model, or it is damaged: {what}"));
    let mut files = Files { model: path, folder: None, open: BTreeMap::new() };
    let undecodable = |what: prost::DecodeError| bad(format!("this is not an ONNX model, or it is damaged: {what}"));
    let mut skeleton = Skeleton { model: ModelProto::default(), weights: Vec::new(), metadata: Vec::new() };
    let mut names = HashSet::default();
    let mut seen_graph = false;
    for field in Fields::of(file) {
        let field = field.map_err(damaged)?;
        if field.number == MODEL_METADATA {
            let (key, value) = entry(&field).map_err(damaged)?;
            skeleton.metadata.push((key.into(), value.into()));
        }
        if field.number != MODEL_GRAPH {
            skeleton.model.merge(field.whole).map_err(undecodable)?;
            continue;
        }
        if seen_graph {
            return Err(damaged("it has two graphs"));
        }
        seen_graph = true;
        // What stays is decoded where it lies: a copy of it would be fresh memory, which takes longer to get than to decode.
        let graph = skeleton.model.graph.get_or_insert_default();
        let is_node = |field: &Result<Field<'_>, Damaged>| field.as_ref().is_ok_and(|field| field.number == GRAPH_NODE);
        graph.node.reserve_exact(field.fields().map_err(damaged)?.filter(is_node).count());
        for field in field.fields().map_err(damaged)? {
            let field = field.map_err(damaged)?;
            if field.number != GRAPH_INITIALIZER {
                graph.merge(field.whole).map_err(undecodable)?;
                continue;
            }
            let header = Header::read(&field).map_err(damaged)?;
            if !names.insert(header.name) {
                return Err(bad(format!("there are two initializers called \"{}\"", header.name)));
            }
            match place(&header, file, &mut files)? {
                Some(weight) if weight.bytes.as_slice().len() < LARGE => {
                    graph.merge(&*embed(&field, weight.bytes.as_slice()).map_err(damaged)?).map_err(undecodable)?;
                }
                Some(weight) => skeleton.weights.push(weight),
                None => graph.merge(field.whole).map_err(undecodable)?,
            }
        }
    }
    if !seen_graph {
        return Err(damaged("it has no graph"));
    }
    Ok(skeleton)
}

/// Writes a small initializer from outside as one whose bytes stand in the graph: tract must see its values.
fn embed(tensor: &Field<'_>, bytes: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut message = Vec::new();
    for field in tensor.fields()? {
        let field = field?;
        if !matches!(field.number, 9 | 13 | 14) {
            message.extend_from_slice(field.whole);
        }
    }
    put_bytes(&mut message, 9, bytes);
    let mut whole = Vec::new();
    put_bytes(&mut whole, GRAPH_INITIALIZER, &message);
    Ok(whole)
}

/// Where a weight's bytes are, if they are large or lie outside.
fn place(header: &Header<'_>, file: &Arc<Mmap>, files: &mut Files<'_>) -> Result<Option<Weight>, ModelError> {
    let path = files.model;
    let bad =
        |what: String| ModelError::Format { path: path.to_path_buf(), what: format!("initializer \"{}\" {what}", header.name) };
    let raw = header.raw.map_or(0, |r| r.1);
    if !header.external && raw < LARGE {
        return Ok(None);
    }
    let dtype = dtype(header.data_type)
        .ok_or_else(|| bad(format!("has an element type that is not supported (number {} in ONNX)", header.data_type)))?;
    let dims: Option<Vec<usize>> = header.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let dims = dims.ok_or_else(|| bad("has a negative size".into()))?;
    let wanted = dims.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
    let wanted = wanted.ok_or_else(|| bad("has an impossible shape".into()))?;
    let bytes = if header.external {
        let location = header.location.ok_or_else(|| bad("lies outside, but the file does not say where".into()))?;
        let number = |text: Option<&str>, what: &str| {
            text.map(|t| t.trim().parse::<usize>().map_err(|_| bad(format!("has a bad {what}: \"{t}\"")))).transpose()
        };
        let offset = number(header.offset, "offset")?.unwrap_or(0);
        let length = number(header.length, "length")?;
        let (data_path, data) = files.open(location).map_err(|what| bad(format!("lies in \"{location}\": {what}")))?;
        let rest = data.len().saturating_sub(offset);
        let len = length.unwrap_or(rest);
        if offset > data.len() || len > rest {
            return Err(bad(format!(
                "is said to be at byte {offset} of \"{}\", {len} bytes long, but that file has {} bytes",
                data_path.display(),
                data.len()
            )));
        }
        Bytes::Mapped { file: data, offset, len }
    } else {
        let (offset, len) = header.raw.unwrap_or_default();
        Bytes::Mapped { file: file.clone(), offset, len }
    };
    let len = match &bytes {
        Bytes::Mapped { len, .. } => *len,
        Bytes::Owned(b) => b.len(),
    };
    if len != wanted {
        return Err(bad(format!("has {len} bytes of data, but its type and shape ({dtype}, {dims:?}) need {wanted}")));
    }
    Ok(Some(Weight { name: header.name.into(), dtype, dims, bytes }))
}

/// External data files of a model, each mapped once.
struct Files<'a> {
    model: &'a Path,
    folder: Option<PathBuf>,
    open: BTreeMap<String, (PathBuf, Arc<Mmap>)>,
}

impl Files<'_> {
    /// The file of this location, which must lie in the model's folder.
    fn open(&mut self, location: &str) -> Result<(PathBuf, Arc<Mmap>), String> {
        if let Some(known) = self.open.get(location) {
            return Ok(known.clone());
        }
        let relative = Path::new(location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !inside {
            return Err("the location must be a path inside the model's folder".into());
        }
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => {
                let parent = self.model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                parent.canonicalize().map_err(|e| e.to_string())?
            }
        };
        let path = folder.join(relative);
        let real = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
        if !real.starts_with(&folder) {
            return Err("the location must be a path inside the model's folder".into());
        }
        self.folder = Some(folder);
        let map = crate::mapped::map(&real).map_err(|e| e.to_string())?;
        self.open.insert(location.into(), (path.clone(), map.clone()));
        Ok((path, map))
    }
}

/// Size of an axis, as a file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    Fixed(usize),
    /// A name that stands for a number, or an expression of such names; `?` where the file says nothing.
    Symbol(String),
}

/// An input or output, as a file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Name.
    pub name: String,
    /// Element type; `None` for one that Kiln does not know (text, sequences).
    pub dtype: Option<DType>,
    /// Sizes, outermost first; `None` where the file does not say how many axes there are.
    pub dims: Option<Vec<Dim>>,
    /// An input whose values are axes, sizes, counts or the like of some node, or of which such are computed, and so decide shapes:
    /// it should be given as a value ([`Options::values`](super::Options::values)).
    pub decides: bool,
}

/// What a file declares about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Inputs, in order, without those that have an initializer.
    pub inputs: Vec<Declared>,
    /// Outputs, in order.
    pub outputs: Vec<Declared>,
    /// `metadata_props`.
    pub metadata: Vec<(String, String)>,
}

/// Reads the signature out of a file's bytes; weights are stepped over.
pub(super) fn signature(bytes: &[u8]) -> Result<Signature, Damaged> {
    let mut signature = Signature::default();
    let (mut initializers, mut nodes) = (HashSet::default(), Vec::new());
    let mut seen_graph = false;
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            MODEL_METADATA => {
                let (key, value) = entry(&field)?;
                signature.metadata.push((key.into(), value.into()));
            }
            MODEL_GRAPH => {
                seen_graph = true;
                for field in field.fields()? {
                    let field = field?;
                    match field.number {
                        GRAPH_NODE => nodes.push(field),
                        GRAPH_INITIALIZER => {
                            for field in field.fields()? {
                                let field = field?;
                                if field.number == 8 {
                                    initializers.insert(field.text()?);
                                }
                            }
                        }
                        GRAPH_INPUT => signature.inputs.push(declared(&field)?),
                        GRAPH_OUTPUT => signature.outputs.push(declared(&field)?),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !seen_graph {
        return Err("it has no graph");
    }
    let deciding = deciding(&nodes)?;
    signature.inputs.retain(|i| !initializers.contains(&*i.name));
    signature.inputs.iter_mut().for_each(|i| i.decides = deciding.contains(i.name.as_bytes()));
    Ok(signature)
}

/// A `ValueInfoProto`.
fn declared(info: &Field<'_>) -> Result<Declared, Damaged> {
    let mut declared = Declared { name: String::new(), dtype: None, dims: None, decides: false };
    for field in info.fields()? {
        let field = field?;
        match field.number {
            1 => declared.name = field.text()?.into(),
            2 => {
                for tensor in field.fields()? {
                    let tensor = tensor?;
                    if tensor.number != 1 {
                        continue; // not a tensor: a sequence, map or optional
                    }
                    for field in tensor.fields()? {
                        let field = field?;
                        match field.number {
                            1 => declared.dtype = dtype(field.number()?),
                            2 => declared.dims = Some(dims(&field)?),
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(declared)
}

/// A `TensorShapeProto`.
fn dims(shape: &Field<'_>) -> Result<Vec<Dim>, Damaged> {
    let mut dims = Vec::new();
    for dimension in shape.fields()? {
        let dimension = dimension?;
        if dimension.number != 1 {
            continue;
        }
        let mut dim = Dim::Symbol("?".into());
        for field in dimension.fields()? {
            let field = field?;
            match field.number {
                1 => {
                    if let Ok(n) = usize::try_from(field.number()?) {
                        dim = Dim::Fixed(n);
                    }
                }
                2 if !field.text()?.is_empty() => dim = Dim::Symbol(field.text()?.into()),
                _ => {}
            }
        }
        dims.push(dim);
    }
    Ok(dims)
}
