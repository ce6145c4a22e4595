//! Between tract's tensors and Kiln's.

use crate::graph::Bytes;
use crate::tensor::DType;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

/// Kiln's name of one of tract's types. Shape arithmetic (`TDim`) is `int64`, as in ONNX.
pub(super) fn dtype(dt: DatumType) -> TractResult<DType> {
    Ok(match dt.unquantized() {
        DatumType::F32 => DType::F32,
        DatumType::F64 => DType::F64,
        DatumType::F16 => DType::F16,
        DatumType::I8 => DType::I8,
        DatumType::I16 => DType::I16,
        DatumType::I32 => DType::I32,
        DatumType::I64 | DatumType::TDim => DType::I64,
        DatumType::U8 => DType::U8,
        DatumType::U16 => DType::U16,
        DatumType::U32 => DType::U32,
        DatumType::U64 => DType::U64,
        DatumType::Bool => DType::Bool,
        other => bail!("tensors of type {other:?} are not supported"),
    })
}

/// tract's name of one of Kiln's types.
pub(super) fn datum_type(dtype: DType) -> TractResult<DatumType> {
    Ok(match dtype {
        DType::F32 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::F16 => DatumType::F16,
        DType::BF16 => bail!("tensors of type bfloat16 are not supported yet: export the model in float16 or float32"),
        DType::I8 => DatumType::I8,
        DType::I16 => DatumType::I16,
        DType::I32 => DatumType::I32,
        DType::I64 => DatumType::I64,
        DType::U8 => DatumType::U8,
        DType::U16 => DatumType::U16,
        DType::U32 => DatumType::U32,
        DType::U64 => DatumType::U64,
        DType::Bool => DatumType::Bool,
    })
}

/// The bytes of a tensor.
pub(super) fn bytes(tensor: &Tensor) -> TractResult<Bytes> {
    Ok(Bytes::Owned(plain(tensor)?.try_as_plain_ram()?.as_bytes().into()))
}

/// The tensor with `TDim` turned into `int64`.
pub(super) fn plain(tensor: &Tensor) -> TractResult<std::borrow::Cow<'_, Tensor>> {
    if tensor.datum_type() == DatumType::TDim {
        return tensor.cast_to_dt(DatumType::I64);
    }
    Ok(std::borrow::Cow::Borrowed(tensor))
}

/// A tensor of tract's type `dt`, of bytes in which `TDim` is `int64`.
pub(super) fn tensor(dt: DatumType, dims: &[usize], bytes: &[u8]) -> TractResult<Tensor> {
    let stored = if dt == DatumType::TDim { DatumType::I64 } else { dt };
    let mut tensor = Tensor::zero_dt(stored.unquantized(), dims)?;
    {
        let mut view = tensor.try_as_plain_ram_mut()?;
        let to = view.as_bytes_mut();
        ensure!(to.len() == bytes.len(), "a tensor of {stored:?} {dims:?} has {} bytes, not {}", to.len(), bytes.len());
        to.copy_from_slice(bytes);
    }
    Ok(if dt == stored { tensor } else { tensor.cast_to_dt(dt)?.into_owned() })
}
