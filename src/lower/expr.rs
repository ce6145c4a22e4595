//! Element-wise expressions: what a chain of element-wise nodes computes, as the program of one
//! [`Map`](crate::program::Map).
//!
//! A map reads its inputs once and writes its result once, so a chain that becomes one map moves memory once instead of
//! once a node. All steps of an expression compute in one [`Domain`]; nodes whose domains differ stay apart.

use super::constant::{Constant, is_float};
use super::net::Net;
use crate::graph::{Node, Op, ValueId};
use crate::program::map::MAX_REGISTERS;
use crate::program::{Binary, Domain, Instruction, Unary};
use crate::tensor::DType;

/// An argument of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arg {
    Input(usize),
    Step(usize),
}

/// `result = f(arguments)`.
#[derive(Clone, Debug)]
struct Step {
    class: u8,
    function: u8,
    args: Vec<Arg>,
    p: [u32; 2],
}

/// An expression; its result is that of the last step.
#[derive(Clone, Debug)]
pub(super) struct Expr {
    /// `None` for one of booleans alone, which either domain can compute.
    pub domain: Option<Domain>,
    pub inputs: Vec<ValueId>,
    steps: Vec<Step>,
}

fn bits(p: [f32; 2]) -> [u32; 2] {
    p.map(f32::to_bits)
}

/// The domain in which a function of such elements is computed.
fn domain(dtype: DType) -> Option<Domain> {
    match dtype {
        DType::Bool => None,
        DType::F64 => Some(Domain::F64),
        d if is_float(d) => Some(Domain::F32),
        _ => Some(Domain::I64),
    }
}

impl Expr {
    /// What an element-wise node computes; `None` for other nodes.
    pub fn of(net: &Net, node: &Node) -> Option<Expr> {
        let out = node.outputs.first().copied().flatten()?;
        let inputs: Vec<ValueId> = node.inputs.iter().copied().collect::<Option<_>>()?;
        let kind = |i: usize| domain(net.dtype(inputs[i]));
        let to = net.dtype(out);
        // Computed as `i64`: what depends on the sign of the highest bit is not.
        let ordered = |f: Binary| {
            use Binary::*;
            matches!(f, Div | Min | Max | Pow | Rem | Mod | Less | LessEqual | Greater | GreaterEqual | Prelu)
        };
        let signed = match node.op {
            Op::Binary(f) => ordered(f),
            Op::Unary(f, _) => matches!(f, Unary::Abs | Unary::Sign),
            _ => false,
        };
        if signed && net.dtype(inputs[0]) == DType::U64 {
            return None;
        }
        let domain = match node.op {
            Op::Unary(..) => kind(0),
            Op::Binary(f) => match (kind(0), f) {
                // Sums and products of booleans are none.
                (None, Binary::Add | Binary::Sub | Binary::Mul | Binary::Div) => Some(Domain::I64),
                (d, _) => d,
            },
            Op::Select => kind(1),
            Op::Cast => match (kind(0), domain(to)) {
                (Some(Domain::F64), _) | (_, Some(Domain::F64)) => Some(Domain::F64),
                (Some(Domain::F32), _) | (_, Some(Domain::F32)) => Some(Domain::F32),
                (None, None) => None,
                _ => Some(Domain::I64),
            },
            _ => return None,
        };
        let mut e = Expr { domain, inputs: vec![], steps: vec![] };
        let args = inputs.iter().map(|&v| e.argument(net, v)).collect();
        let (class, function, p) = match node.op {
            Op::Unary(f, p) => (Instruction::UNARY, f as u8, bits(p)),
            Op::Binary(f) => (Instruction::BINARY, f as u8, [0; 2]),
            Op::Select => (Instruction::SELECT, 0, [0; 2]),
            Op::Cast if to == DType::Bool && net.dtype(inputs[0]) != DType::Bool => {
                e.steps.push(Step { class: Instruction::CONSTANT, function: 0, args: vec![], p: [0; 2] });
                let zero = Arg::Step(e.steps.len() - 1);
                let args = [args, vec![zero]].concat();
                e.steps.push(Step { class: Instruction::BINARY, function: Binary::NotEqual as u8, args, p: [0; 2] });
                return Some(e);
            }
            _ => (Instruction::UNARY, Unary::Identity as u8, [0; 2]),
        };
        e.steps.push(Step { class, function, args, p });
        Some(e)
    }

    fn argument(&mut self, net: &Net, v: ValueId) -> Arg {
        let small = |c: &&Constant| (1..=1 << 16).contains(&c.layout.elements()) && self.domain != Some(Domain::F64);
        if let Some(c) = net.constant(v).filter(small) {
            let p = if self.domain == Some(Domain::I64) {
                let all = c.i64s();
                all.iter().all(|&x| x == all[0]).then(|| [all[0] as u32, (all[0] >> 32) as u32])
            } else {
                // A constant of booleans alone would read differently in the two domains.
                c.uniform().filter(|_| self.domain.is_some()).map(|x| bits([x, 0.0]))
            };
            if let Some(p) = p {
                self.steps.push(Step { class: Instruction::CONSTANT, function: 0, args: vec![], p });
                return Arg::Step(self.steps.len() - 1);
            }
        }
        let known = self.inputs.iter().position(|&i| i == v);
        Arg::Input(known.unwrap_or_else(|| {
            self.inputs.push(v);
            self.inputs.len() - 1
        }))
    }

    /// Puts the expression of input `v`, whose value has this type, in its place. `None` where domains or the number of
    /// registers forbid it.
    pub fn absorb(&self, v: ValueId, dtype: DType, inner: &Expr) -> Option<Expr> {
        // What is between the two must be such as it would be when stored and loaded again.
        let domain = match (inner.domain, self.domain) {
            (a, b) if a == b => a,
            (None, d) | (d, None) if dtype == DType::Bool => d,
            _ => return None,
        };
        let exact = match dtype {
            DType::Bool => true,
            DType::I64 => domain == Some(Domain::I64),
            DType::F64 => domain == Some(Domain::F64),
            d => is_float(d) && domain == Some(Domain::F32),
        };
        if !exact {
            return None;
        }
        let mut e = Expr { domain, inputs: inner.inputs.clone(), steps: inner.steps.clone() };
        let result = e.steps.len() - 1;
        let place = |e: &mut Expr, v: ValueId| match e.inputs.iter().position(|&i| i == v) {
            Some(i) => Arg::Input(i),
            None => {
                e.inputs.push(v);
                Arg::Input(e.inputs.len() - 1)
            }
        };
        let inputs: Vec<Arg> = self.inputs.iter().map(|&i| if i == v { Arg::Step(result) } else { place(&mut e, i) }).collect();
        for step in &self.steps {
            let args = step.args.iter().map(|a| match *a {
                Arg::Input(i) => inputs[i],
                Arg::Step(s) => Arg::Step(s + result + 1),
            });
            let args = args.collect();
            e.steps.push(Step { args, ..step.clone() });
        }
        e.instructions().is_some().then_some(e)
    }

    /// The instructions, the number of registers and the register of the result; `None` if registers do not suffice.
    pub fn instructions(&self) -> Option<(Vec<Instruction>, usize, u8)> {
        let first = self.inputs.len();
        let mut last_use = vec![0; self.steps.len()];
        for (i, step) in self.steps.iter().enumerate() {
            for arg in &step.args {
                if let Arg::Step(s) = *arg {
                    last_use[s] = i;
                }
            }
        }
        let mut place = vec![0u8; self.steps.len()];
        let mut taken: Vec<bool> = vec![];
        let mut out = vec![];
        for (i, step) in self.steps.iter().enumerate() {
            // A register that is read for the last time may be written by the same instruction: all are evaluated
            // element by element.
            for (s, &last) in last_use.iter().enumerate().take(i) {
                if last == i {
                    taken[place[s] as usize - first] = false;
                }
            }
            let free = taken.iter().position(|t| !t).unwrap_or_else(|| {
                taken.push(false);
                taken.len() - 1
            });
            taken[free] = true;
            if first + taken.len() > MAX_REGISTERS {
                return None;
            }
            place[i] = (first + free) as u8;
            let reg = |n: usize| match step.args.get(n) {
                Some(Arg::Input(i)) => *i as u8,
                Some(Arg::Step(s)) => place[*s],
                None => 0,
            };
            let Step { class, function, p, .. } = *step;
            out.push(Instruction { class, function, to: place[i], a: reg(0), b: reg(1), c: reg(2), reserved: [0; 2], p });
        }
        Some((out, first + taken.len(), *place.last()?))
    }
}
