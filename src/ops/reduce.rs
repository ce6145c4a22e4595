//! Ops along an axis.

use super::{Context, Entry, Op};
use crate::error::{Error, Kind, Result};
use crate::kernels::Backend;
use crate::program::OpKind;

/// [`Reduce`](OpKind::Reduce).
pub const fn reduce<B: Backend>() -> Entry {
    Entry { kind: OpKind::Reduce, eval: eval_reduce::<B> }
}

fn eval_reduce<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`Softmax`](OpKind::Softmax).
pub const fn softmax<B: Backend>() -> Entry {
    Entry { kind: OpKind::Softmax, eval: eval_softmax::<B> }
}

fn eval_softmax<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`Norm`](OpKind::Norm).
pub const fn norm<B: Backend>() -> Entry {
    Entry { kind: OpKind::Norm, eval: eval_norm::<B> }
}

fn eval_norm<B: Backend>(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`ArgReduce`](OpKind::ArgReduce).
pub const fn arg_reduce() -> Entry {
    Entry { kind: OpKind::ArgReduce, eval: eval_arg_reduce }
}

fn eval_arg_reduce(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}

/// [`TopK`](OpKind::TopK).
pub const fn top_k() -> Entry {
    Entry { kind: OpKind::TopK, eval: eval_top_k }
}

fn eval_top_k(_context: &Context<'_>, _op: &Op<'_>) -> Result<()> {
    Err(Error::new(Kind::MissingOp, "draft"))
}
