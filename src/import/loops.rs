//! `Loop` and `Scan` written out: a copy of the body a turn.
//!
//! * A `Scan` takes as many turns as the axis has elements that it goes along.
//! * A `Loop` whose condition is known takes as many turns as that says.
//! * If its condition depends on data, but the number of its turns has a bound, it is written out for all of them. A turn that is
//!   not taken **repeats the last one that was**: it gets the same carried values and the same number of the turn
//!   ([`CHOICE`]), so it yields the same, and can't fail where the loop would have stopped. Rows that it yields
//!   are packed up to the last turn that was taken (`Compress`): their number depends on data, as of `NonZero`.
//!   Where the number of the turn makes a shape, it stays what it is, and what such a turn yields is replaced.

use super::attributes::{Attributes, int, ints};
use super::control::{NODES, Written, constants, copy, inlined, input, subgraph};
use super::hash::{HashMap, HashSet};
use super::known::{Known, Scope};
use super::whole::CHOICE;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

/// Turns of a loop at the most.
const TURNS: usize = 4096;

/// Nodes that a `Scan` is written out in at the most: reading as many takes some seconds, and more with their square. The host runs
/// longer ones.
const SCANNED: usize = 1 << 14;

/// Why a loop is not written out.
type Why = String;

pub(super) fn too_long(most: usize, what: &str) -> Why {
    format!("written out turn by turn it would take more than {most} {what}")
}

/// Whether a turn is taken.
#[derive(Clone, PartialEq)]
enum Goes {
    Known(bool),
    /// As this tensor says.
    Told(String),
}

/// A node that yields `a` where `goes` is true, else `b`; `what` says in an error what they are.
pub(super) fn choice(goes: &str, a: &str, b: &str, name: String, what: &str) -> NodeProto {
    let what = AttributeProto { name: "what".into(), s: what.into(), r#type: 3, ..Default::default() };
    NodeProto {
        op_type: CHOICE.into(),
        name: name.clone(),
        input: [goes, a, b].map(String::from).to_vec(),
        output: vec![name],
        attribute: vec![what],
        ..Default::default()
    }
}

/// The loop for which a choice was written, by their names.
pub(super) fn of_choice(name: &str) -> Option<&str> {
    let (place, _) = name.rsplit_once('#')?;
    place.rsplit_once('.').map(|(of, _)| of)
}

/// What has been written for a loop.
struct Writer<'a> {
    graph: &'a GraphProto,
    body: &'a GraphProto,
    name: &'a str,
    opset: i64,
    known: &'a Known,
    /// Constants of the body, which all turns share.
    constants: HashMap<String, String>,
    written: Written,
}

impl<'a> Writer<'a> {
    fn new(graph: &'a GraphProto, node: &'a NodeProto, opset: i64, known: &'a Known) -> Option<Writer<'a>> {
        let body = subgraph(node, "body")?;
        let (mut constants_of, mut written) = (HashMap::default(), (vec![], vec![]));
        // What a body takes from outside hides its constants of the same name.
        for formal in &body.input {
            constants_of.insert(formal.name.clone(), String::new());
        }
        constants(body, &mut constants_of, &node.name, &mut written);
        Some(Writer { graph, body, name: &node.name, opset, known, constants: constants_of, written })
    }

    fn scope(&self) -> Scope<'_> {
        Scope { graph: self.graph, more: &self.written, opset: self.opset, known: self.known }
    }

    /// A constant of integers (of ONNX's type 7), or booleans (9).
    fn constant(&mut self, name: String, data_type: i32, dims: &[i64], values: &[i64]) -> String {
        let (int64_data, int32_data) =
            if data_type == 7 { (values.to_vec(), vec![]) } else { (vec![], values.iter().map(|&v| v as i32).collect()) };
        let dims = dims.to_vec();
        self.written.1.push(TensorProto { name: name.clone(), dims, data_type, int64_data, int32_data, ..Default::default() });
        name
    }

    fn node(&mut self, op: &str, name: String, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.written.0.push(NodeProto {
            op_type: op.into(),
            name: name.clone(),
            input: inputs.iter().map(|i| i.to_string()).collect(),
            output: vec![name.clone()],
            attribute,
            ..Default::default()
        });
        name
    }

    /// One turn: the body over these inputs. Gives its outputs.
    fn turn(&mut self, place: &str, actual: impl IntoIterator<Item = String>) -> Result<Vec<String>, Why> {
        let mut names = self.constants.clone();
        names.extend(self.body.input.iter().map(|formal| formal.name.clone()).zip(actual));
        let outputs = inlined(self.body, names, place, &mut self.written);
        if self.written.0.len() > NODES { Err(too_long(NODES, "nodes")) } else { Ok(outputs) }
    }

    /// `a` where a turn is taken, else `b`; `what` says in an error what they are.
    fn choice(&mut self, goes: &str, a: &str, b: &str, name: String, what: &str) -> String {
        if a == b {
            return a.into();
        }
        let what = format!("{what} of the loop \"{}\"", self.name);
        self.written.0.push(choice(goes, a, b, name.clone(), &what));
        name
    }

    /// An element of an axis, without that axis.
    fn taken(&mut self, x: &str, axis: i64, at: i64, name: String) -> String {
        let place = self.constant(format!("{name}#place"), 7, &[], &[at]);
        self.node("Gather", name, &[x, &place], vec![int("axis", axis)])
    }

    /// Rows behind each other along a new axis.
    fn stacked(&mut self, rows: &[String], axis: i64, name: String) -> String {
        let axes = if self.opset < 13 { None } else { Some(self.constant(format!("{name}#axis"), 7, &[1], &[axis])) };
        let mut parts = vec![];
        for (i, row) in rows.iter().enumerate() {
            let part = format!("{name}#{i}");
            parts.push(match &axes {
                Some(axes) => self.node("Unsqueeze", part, &[row, axes], vec![]),
                None => self.node("Unsqueeze", part, &[row], vec![ints("axes", vec![axis])]),
            });
        }
        self.node("Concat", name, &parts.iter().map(|p| &**p).collect::<Vec<_>>(), vec![int("axis", axis)])
    }

    /// No rows: their shape is what the body declares.
    fn no_rows(&mut self, formal: &ValueInfoProto, name: String) -> Result<String, Why> {
        let declared = || -> Option<(i32, Vec<i64>)> {
            let type_proto::Value::TensorType(tensor) = formal.r#type.as_ref()?.value.as_ref()?;
            let size = |d: &tract_onnx::pb::tensor_shape_proto::Dimension| match d.value {
                Some(DimValue::DimValue(n)) => Some(n),
                _ => None,
            };
            let sizes = tensor.shape.as_ref()?.dim.iter().map(size);
            Some((tensor.elem_type, [Some(0)].into_iter().chain(sizes).collect::<Option<Vec<_>>>()?))
        };
        let unknown = || format!("it takes no turn, and its body does not declare the shape of \"{}\"", formal.name);
        let (data_type, dims) = declared().ok_or_else(unknown)?;
        self.written.1.push(TensorProto { name: name.clone(), dims, data_type, ..Default::default() });
        Ok(name)
    }
}

/// A `Loop` turn by turn.
///
/// # Errors
/// Why that can't be.
pub(super) fn turns(graph: &GraphProto, node: &NodeProto, opset: i64, known: &Known) -> Result<Written, Why> {
    let mut w = Writer::new(graph, node, opset, known).ok_or("it has no body")?;
    let fits = |carried: usize| {
        let outputs = w.body.output.len();
        (outputs > carried && outputs > node.output.len() && node.input.len() >= 2 + carried).then_some(carried)
    };
    let carried = w.body.input.len().checked_sub(2).and_then(fits);
    let carried = carried.ok_or("its inputs, and its body's inputs and outputs, do not fit each other")?;
    // Turns at the most, and the tensor that says how many, where that is computed.
    let (most, count) = match input(node, 0) {
        None => (usize::MAX, None),
        Some(name) => {
            match (w.scope().integer(name), w.scope().most(name)) {
                (Some(n), _) => (usize::try_from(n).unwrap_or(0), None),
                (None, Some(n)) => (usize::try_from(n).unwrap_or(0), Some(name)),
                (None, None) => {
                    return Err("how many turns it takes depends on data, and nothing bounds it: make its first input (the trip count) a \
                            constant, or the Min of a constant and what is computed"
                    .into());
                }
            }
        }
    };
    let told = |w: &Writer<'_>, name: &str| w.scope().truth(name).map_or(Goes::Told(name.into()), Goes::Known);
    let mut goes = input(node, 1).map_or(Goes::Known(true), |name| told(&w, name));
    // A turn is taken if those before it were, and it is one of as many as are computed.
    let and = |w: &mut Writer<'_>, goes: &Goes, more: Goes, name: String| match (goes, more) {
        (Goes::Known(false), _) | (_, Goes::Known(false)) => Goes::Known(false),
        (Goes::Known(true), more) => more,
        (Goes::Told(a), Goes::Told(b)) => Goes::Told(w.node("And", name, &[a, &b], vec![])),
        (goes, Goes::Known(true)) => goes.clone(),
    };
    let fixed = makes_shapes(w.body, &w.body.input[0].name);
    let always = w.constant(format!("{}#goes", w.name), 9, &[], &[1]);
    let initial: Vec<String> = node.input[2..2 + carried].to_vec();
    let what = |i: usize| format!("the carried value \"{}\"", w.body.input[2 + i].name);
    let what: Vec<String> = (0..carried).map(what).collect();
    // What the last turn got, and what it and the turns before it made of that.
    let (mut fed, mut number) = (initial.clone(), String::new());
    let mut made: Vec<String> = initial.clone();
    let mut rows: Vec<Vec<String>> = vec![vec![]; w.body.output.len() - 1 - carried];
    let mut taken: Vec<Goes> = vec![];
    for turn in 0.. {
        let place = format!("{}.{turn}", w.name);
        if let Some(count) = count.filter(|_| turn < most) {
            let at = w.constant(format!("{place}#at"), 7, &[], &[turn as i64]);
            let less = w.node("Less", format!("{place}#within"), &[&at, count], vec![]);
            goes = and(&mut w, &goes, Goes::Told(less), format!("{place}#goes"));
        }
        if turn >= most || goes == Goes::Known(false) {
            break;
        }
        if turn == TURNS {
            return Err(match goes {
                Goes::Known(_) => too_long(TURNS, "turns"),
                Goes::Told(_) => format!(
                    "when it stops depends on data, and it may take more than {TURNS} turns: make its first input (the trip count) a \
                     constant that says how many it may take at the most, {TURNS} or less"
                ),
            });
        }
        let at = w.constant(format!("{place}#turn"), 7, &[], &[turn as i64]);
        match &goes {
            Goes::Told(goes) if turn > 0 => {
                for i in 0..carried {
                    fed[i] = w.choice(goes, &made[i], &fed[i], format!("{place}#in{i}"), &what[i]);
                }
                number = if fixed { at } else { w.choice(goes, &at, &number, format!("{place}#number"), "the turn") };
            }
            _ => (fed, number) = (made.clone(), at),
        }
        let mut outputs = w.turn(&place, [number.clone(), always.clone()].into_iter().chain(fed.iter().cloned()))?;
        if let (true, true, Goes::Told(goes)) = (fixed, turn > 0, &goes) {
            for i in 0..carried {
                outputs[1 + i] = w.choice(goes, &outputs[1 + i], &made[i], format!("{place}#out{i}"), &what[i]);
            }
            for (i, rows) in rows.iter().enumerate() {
                let (row, what) = (&outputs[1 + carried + i], format!("the output \"{}\"", w.body.output[1 + carried + i].name));
                outputs[1 + carried + i] = w.choice(goes, row, &rows[turn - 1], format!("{place}#row{i}"), &what);
            }
        }
        // What is asked of tract for a turn is all that leads to it: only as long as the answers are known.
        let more = if let Goes::Told(_) = goes { Goes::Told(outputs[0].clone()) } else { told(&w, &outputs[0]) };
        taken.push(goes.clone());
        goes = and(&mut w, &goes, more, format!("{place}#on"));
        made = outputs[1..1 + carried].to_vec();
        rows.iter_mut().zip(&outputs[1 + carried..]).for_each(|(rows, row)| rows.push(row.clone()));
    }
    for (i, to) in node.output.iter().enumerate().filter(|(_, to)| !to.is_empty()).take_while(|(i, _)| *i < carried) {
        let made = match taken.first() {
            Some(Goes::Told(goes)) => w.choice(goes, &made[i], &initial[i], format!("{}.0#last{i}", w.name), &what[i]),
            _ => made[i].clone(),
        };
        w.written.0.push(copy(&made, to));
    }
    let open = taken.iter().any(|goes| matches!(goes, Goes::Told(_)));
    let mask = if open { Some(mask(&mut w, &taken)) } else { None };
    for (i, rows) in rows.iter().enumerate() {
        let Some(to) = node.output.get(carried + i).filter(|to| !to.is_empty()) else { continue };
        let all = match &rows[..] {
            [] => w.no_rows(&w.body.output[1 + carried + i], format!("{to}#rows"))?,
            rows => w.stacked(rows, 0, format!("{to}#rows")),
        };
        match &mask {
            Some(mask) => w.node("Compress", to.clone(), &[&all, mask], vec![int("axis", 0)]),
            None => {
                w.written.0.push(copy(&all, to));
                all
            }
        };
    }
    Ok(w.written)
}

/// Which turns are taken: a row of booleans.
fn mask(w: &mut Writer<'_>, taken: &[Goes]) -> String {
    let one = w.constant(format!("{}#one", w.name), 7, &[1], &[1]);
    let parts: Vec<String> = taken
        .iter()
        .enumerate()
        .map(|(turn, goes)| {
            let name = format!("{}.{turn}#taken", w.name);
            match goes {
                Goes::Told(goes) => w.node("Reshape", name, &[goes, &one], vec![]),
                Goes::Known(goes) => w.constant(name, 9, &[1], &[*goes as i64]),
            }
        })
        .collect();
    w.node("Concat", format!("{}#taken", w.name), &parts.iter().map(|p| &**p).collect::<Vec<_>>(), vec![int("axis", 0)])
}

/// Whether a shape, or the course of something, may hang on the number of the turn.
fn makes_shapes(body: &GraphProto, number: &str) -> bool {
    let mut reached: HashSet<&str> = [number].into_iter().collect();
    for node in &body.node {
        let reads = |slot: usize| node.input.get(slot).is_some_and(|name| reached.contains(&**name));
        let any = (0..node.input.len()).any(reads);
        let first = match &*node.op_type {
            // It may read anything that is outside of its branches.
            "If" | "Loop" | "Scan" => return true,
            "ConstantOfShape" | "Range" => 0,
            "Expand" | "OneHot" | "Pad" | "Reshape" | "Resize" | "Slice" | "Split" | "Squeeze" | "Tile" | "TopK"
            | "Unsqueeze" => 1,
            "Shape" | "Size" => continue,
            _ => usize::MAX,
        };
        if (first..node.input.len()).any(reads) {
            return true;
        }
        if any {
            reached.extend(node.output.iter().map(|o| &**o));
        }
    }
    false
}

/// A `Scan` turn by turn; `None` where the number of its turns is not known, or too large.
pub(super) fn scanned(graph: &GraphProto, node: &NodeProto, opset: i64, known: &Known) -> Option<Written> {
    let mut w = Writer::new(graph, node, opset, known)?;
    let a = Attributes(node);
    // Operator set 8 has lengths of sequences as its first input, and a batch axis before all others.
    let batched = opset < 9;
    if batched && input(node, 0).is_some() {
        return None;
    }
    let inputs = node.input.get(batched as usize..)?;
    let scanned = usize::try_from(a.int("num_scan_inputs", 0)).ok().filter(|&n| n > 0 && n <= inputs.len())?;
    let (states, inputs) = inputs.split_at(inputs.len() - scanned);
    let rows = w.body.output.len().checked_sub(states.len())?;
    if w.body.input.len() != states.len() + inputs.len() {
        return None;
    }
    let of = |name: &str, i: usize| a.ints(name).and_then(|all| all.get(i).copied()).unwrap_or(0);
    let backwards = |i: usize| of(if batched { "directions" } else { "scan_input_directions" }, i) == 1;
    // As many turns as the axes have elements.
    let (mut turns, mut batch) = (None, 1usize);
    for (i, x) in inputs.iter().enumerate() {
        let (_, shape) = w.scope().fact(x)?;
        let axis = if batched { 1 } else { of("scan_input_axes", i) };
        let axis = usize::try_from(if axis < 0 { axis + shape.len() as i64 } else { axis }).ok()?;
        let size = *shape.get(axis)?;
        if batched {
            batch = *shape.first()?;
        }
        if *turns.get_or_insert(size) != size {
            return None;
        }
    }
    let turns = turns.filter(|&turns| turns <= TURNS && (turns > 0 && batch > 0 || !batched))?;
    let nodes = (w.body.node.len() + inputs.len()).saturating_mul(turns).saturating_mul(batch);
    if nodes > SCANNED {
        return None;
    }
    let mut of_batch: Vec<Vec<String>> = vec![vec![]; node.output.len()];
    for b in 0..batch {
        let place = if batched { format!("{}.{b}", w.name) } else { w.name.to_string() };
        // In a batch: each sequence for itself.
        let own = |w: &mut Writer<'_>, i: usize, x: &String, what: &str| {
            if batched { w.taken(x, 0, b as i64, format!("{place}#{what}{i}")) } else { x.clone() }
        };
        let mut state: Vec<String> = states.iter().enumerate().map(|(i, x)| own(&mut w, i, x, "state")).collect();
        let sequences: Vec<String> = inputs.iter().enumerate().map(|(i, x)| own(&mut w, i, x, "sequence")).collect();
        let mut all: Vec<Vec<String>> = vec![vec![]; rows];
        for turn in 0..turns {
            let place = format!("{place}.{turn}");
            let mut actual = state;
            for (i, x) in sequences.iter().enumerate() {
                let at = if backwards(i) { turns - 1 - turn } else { turn };
                actual.push(w.taken(x, if batched { 0 } else { of("scan_input_axes", i) }, at as i64, format!("{place}#in{i}")));
            }
            let outputs = w.turn(&place, actual).ok()?;
            state = outputs[..states.len()].to_vec();
            all.iter_mut().zip(&outputs[states.len()..]).for_each(|(all, row)| all.push(row.clone()));
        }
        for (i, to) in node.output.iter().enumerate().filter(|(_, to)| !to.is_empty()) {
            let Some(of_row) = i.checked_sub(states.len()) else {
                of_batch[i].push(state[i].clone());
                continue;
            };
            let mut rows = all.get(of_row)?.clone();
            if !batched && of("scan_output_directions", of_row) == 1 {
                rows.reverse();
            }
            let axis = if batched { 0 } else { of("scan_output_axes", of_row) };
            let name = if batched { format!("{to}.{b}") } else { format!("{to}#rows") };
            of_batch[i].push(match &rows[..] {
                [] if axis == 0 => w.no_rows(&w.body.output[i], name).ok()?,
                [] => return None,
                rows => w.stacked(rows, axis, name),
            });
        }
    }
    for (to, all) in node.output.iter().zip(&of_batch).filter(|(to, _)| !to.is_empty()) {
        if batched {
            w.stacked(all, 0, to.clone());
        } else {
            w.written.0.push(copy(all.first()?, to));
        }
    }
    Some(w.written)
}
