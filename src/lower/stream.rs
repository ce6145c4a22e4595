//! A causal network, one step at a time.
//!
//! The axis of time is followed from an input through the network. Element-wise ops, products per step and the like pass it
//! on; a recurrent cell that runs forward keeps its state from run to run, a convolution that looks only back reads a
//! [window](crate::program::Window) of the last steps. What mixes steps in another way (a second direction, pooling or a
//! softmax over time, something of its own for each step) is no stream, and the node that does it is named. At the end every
//! tensor has one step instead of all, and the same passes as ever lower the network.
//!
//! Which axis is time is not asked for: of all axes of all inputs it is the one that leads to a recurrent cell's steps or to
//! a convolution that looks back.

use super::constant::Constant;
use super::net::{Net, made};
use crate::ModelError;
use crate::graph::{Node, Op, ValueId};
use crate::tensor::DType;

/// What a value has to do with time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Time {
    /// Nothing.
    Free,
    /// This axis is time; it has so many steps more than the input, which are cut off later.
    Axis(usize, usize),
    /// It is what the latest step yields.
    Latest,
}

/// How time runs through a network.
struct Track {
    times: Vec<Time>,
    steps: usize,
    /// A node was met that keeps something from step to step.
    stateful: bool,
    input: ValueId,
}

/// Turns a network into one that takes a step at a time; the metadata get the name of the input that is fed.
///
/// # Errors
/// [`ModelError::Node`] naming the node that is not causal; [`ModelError::Call`] where there is no time axis.
pub(super) fn run(net: &mut Net) -> Result<(), ModelError> {
    let mut failure: Option<(usize, String)> = None;
    let mut found = None;
    for &input in &net.graph.inputs {
        for axis in 0..net.dims(input).len() {
            if net.dims(input)[axis] < 2 || found.is_some() {
                continue;
            }
            match track(net, input, axis) {
                Ok(track) if track.stateful => found = Some(track),
                Ok(_) => {}
                Err((at, why)) => {
                    if failure.as_ref().is_none_or(|f| at > f.0) {
                        failure = Some((at, why));
                    }
                }
            }
        }
    }
    match (found, failure) {
        (Some(track), _) => {
            rewrite(net, &track);
            let name = net.name(track.input).to_string();
            net.graph.metadata.push(("kiln.stream".into(), name));
            Ok(())
        }
        (None, Some((at, why))) => {
            let node = &net.graph.nodes[at];
            Err(ModelError::node(&node.name, &node.op_type, format!("the model can't be streamed: {why}")))
        }
        (None, None) => Err(ModelError::Call(
            "the model can't be streamed: no input has an axis of steps that a recurrent cell or a causal convolution runs along"
                .into(),
        )),
    }
}

fn track(net: &Net, input: ValueId, axis: usize) -> Result<Track, (usize, String)> {
    let mut t = Track { times: vec![Time::Free; net.graph.values.len()], steps: net.dims(input)[axis], stateful: false, input };
    t.times[input.0] = Time::Axis(axis, 0);
    for (i, node) in net.graph.nodes.iter().enumerate() {
        let inputs: Vec<(ValueId, Time)> = node.inputs.iter().flatten().map(|v| (*v, t.times[v.0])).collect();
        let timed = inputs.iter().any(|(_, time)| matches!(time, Time::Axis(..)));
        let latest = inputs.iter().any(|(_, time)| *time == Time::Latest);
        let outputs = match (timed, latest) {
            (false, false) => continue,
            (false, true) => vec![Time::Latest; node.outputs.len()],
            (true, true) => return Err((i, "it joins the latest step with all steps".into())),
            (true, false) => follow(net, node, &mut t).map_err(|why| (i, why))?,
        };
        for (v, time) in node.outputs.iter().zip(outputs) {
            if let Some(v) = v {
                t.times[v.0] = time;
            }
        }
    }
    for &v in &net.graph.outputs {
        if let (Time::Axis(_, extra @ 1..), Some(at)) = (t.times[v.0], net.producer(v)) {
            return Err((at, format!("an output has {extra} steps more than the input")));
        }
    }
    Ok(t)
}

/// The times of a node's outputs.
fn follow(net: &Net, node: &Node, t: &mut Track) -> Result<Vec<Time>, String> {
    let input = |slot: usize| node.inputs.get(slot).copied().flatten();
    let time = |t: &Track, slot: usize| input(slot).map_or(Time::Free, |v| t.times[v.0]);
    let out = node.outputs.iter().flatten().next().copied().ok_or("it has no output")?;
    let (out_dims, x) = (net.dims(out), input(0).ok_or("it has no input")?);
    let dims = net.dims(x);
    let alone = |time: Time| vec![time; node.outputs.len()];
    let Time::Axis(axis, extra) = time(t, 0) else {
        // Of the ops below only these may have time elsewhere than in their first input.
        return match &node.op {
            Op::Gather { axis } => match time(t, 1) {
                Time::Axis(i, extra) => Ok(alone(Time::Axis(axis + i, extra))),
                _ => Err("it has no steps".into()),
            },
            Op::Binary(_) | Op::Select => elementwise(net, node, t, out_dims).map(alone),
            Op::EinSum { .. } => product(net, node, t).map(alone),
            Op::Concat { .. } => Err("it joins steps with something else".into()),
            _ => Err("its parameters depend on the input".into()),
        };
    };
    let beside = |used: &[usize], what: &str| {
        if used.contains(&axis) {
            Err(format!("it {what} over all steps"))
        } else {
            Ok(vec![Time::Axis(axis, extra); node.outputs.len()])
        }
    };
    match &node.op {
        Op::Unary(..) | Op::Cast => Ok(alone(Time::Axis(axis, extra))),
        Op::Binary(_) | Op::Select => elementwise(net, node, t, out_dims).map(alone),
        Op::EinSum { .. } => product(net, node, t).map(alone),
        Op::Transpose(perm) => {
            let to = perm.iter().position(|&p| p == axis).ok_or("it loses the steps")?;
            Ok(alone(Time::Axis(to, extra)))
        }
        Op::Reshape => {
            let before: usize = dims[..axis].iter().product();
            let to =
                (0..out_dims.len()).find(|&i| out_dims[i] == dims[axis] && out_dims[..i].iter().product::<usize>() == before);
            to.map(|to| alone(Time::Axis(to, extra))).ok_or("it joins steps into one row".into())
        }
        Op::Broadcast => Ok(alone(Time::Axis(axis + out_dims.len() - dims.len(), extra))),
        Op::Slice { axis: sliced, start, step } if *sliced == axis => match (*start, *step, out_dims[axis]) {
            (0, 1, n) if n == t.steps => Ok(alone(Time::Axis(axis, 0))),
            (s, _, 1) if s + 1 == t.steps && extra == 0 => Ok(alone(Time::Latest)),
            _ => Err("it takes some of the steps".into()),
        },
        Op::Slice { .. } => Ok(alone(Time::Axis(axis, extra))),
        Op::Gather { axis: gathered } => {
            let index = input(1).ok_or("it has no indices")?;
            if *gathered != axis {
                let shift = if *gathered < axis { net.dims(index).len() } else { 1 };
                return Ok(alone(Time::Axis(axis + shift - 1, extra)));
            }
            let last = t.steps as i64 - 1;
            let takes_last = net.constant(index).is_some_and(|c| c.i64s().iter().all(|&i| i == last || i == -1));
            if takes_last && extra == 0 { Ok(alone(Time::Latest)) } else { Err("it takes some of the steps".into()) }
        }
        Op::Concat { axis: joined } => {
            let same = (0..node.inputs.len()).all(|slot| time(t, slot) == Time::Axis(axis, extra));
            if *joined == axis || !same {
                Err("it joins steps with something else".into())
            } else {
                Ok(alone(Time::Axis(axis, extra)))
            }
        }
        Op::Pad { before, .. } => {
            let padded = before[axis] != 0 || out_dims[axis] != dims[axis];
            if padded { Err("it adds steps".into()) } else { Ok(alone(Time::Axis(axis, extra))) }
        }
        Op::Softmax { axis: used, .. } => beside(&[*used], "is a softmax"),
        Op::ArgReduce { axis: used, .. } | Op::TopK { axis: used, .. } => beside(&[*used], "looks for the largest"),
        Op::Reduce { axes, .. } => beside(axes, "reduces"),
        Op::LayerNorm { axis: first, .. } => beside(&(*first..dims.len()).collect::<Vec<_>>(), "normalises"),
        Op::GroupNorm { .. } => beside(&(1..dims.len()).collect::<Vec<_>>(), "normalises"),
        Op::BatchNorm { .. } => beside(&[1], "normalises"),
        Op::GlobalPool { .. } => beside(&(1..dims.len()).collect::<Vec<_>>(), "pools"),
        Op::MaxPool { window } | Op::AveragePool { window, .. } => {
            let first = dims.len() - window.kernel.len();
            match axis.checked_sub(first) {
                Some(i) if window.kernel[i] != 1 || window.strides[i] != 1 => Err("it pools over several steps".into()),
                _ => Ok(alone(Time::Axis(axis, extra))),
            }
        }
        Op::Conv { window, .. } => {
            let first = dims.len() - window.kernel.len();
            let Some(i) = axis.checked_sub(first) else {
                return if axis + 1 == first {
                    Err("its channels are the steps".into())
                } else {
                    Ok(alone(Time::Axis(axis, extra)))
                };
            };
            let reach = window.dilations[i] * (window.kernel[i] - 1);
            if window.strides[i] != 1 {
                return Err("it skips steps".into());
            }
            if window.before[i] != reach {
                let ahead = reach as i64 - window.before[i] as i64;
                return Err(format!("it is not causal: a step's result depends on {ahead} of the steps after it"));
            }
            if dims[..axis].iter().zip(0..).any(|(&d, a)| a + 1 != first && d != 1) {
                return Err("it runs over several sequences, or steps are not its first axis".into());
            }
            t.stateful |= reach > 0;
            Ok(alone(Time::Axis(axis, extra + window.after[i])))
        }
        Op::Lstm(r) | Op::Gru(r) => {
            if axis != r.batch_first as usize {
                return Err("its features or sequences are the steps".into());
            }
            if r.directions.iter().any(|&reverse| reverse) {
                return Err("it reads the sequence backwards".into());
            }
            let zero = |slot: usize| match input(slot) {
                Some(v) => net.constant(v).and_then(|c| c.uniform()).is_some_and(|u| u == 0.0),
                None => true,
            };
            if !zero(5) || !zero(6) {
                return Err("its initial state is not zero".into());
            }
            if extra > 0 {
                return Err("it has more steps than the input".into());
            }
            t.stateful = true;
            let first = Time::Axis(if r.batch_first { 1 } else { 0 }, 0);
            Ok((0..node.outputs.len()).map(|i| if i == 0 { first } else { Time::Latest }).collect())
        }
        Op::Extern { reason } => Err(reason.clone()),
        _ => Err(format!("{} over steps has no streamed form", node.op_type)),
    }
}

/// All inputs that have steps must have them on the same axis of the output; the others must be the same for all steps.
fn elementwise(net: &Net, node: &Node, t: &Track, out_dims: &[usize]) -> Result<Time, String> {
    let mut time = None;
    for &v in node.inputs.iter().flatten() {
        if let Time::Axis(axis, extra) = t.times[v.0] {
            let here = Time::Axis(axis + out_dims.len() - net.dims(v).len(), extra);
            if time.is_some_and(|other| other != here) {
                return Err("its operands' steps are different axes".into());
            }
            time = Some(here);
        }
    }
    let Some(Time::Axis(axis, extra)) = time else { return Err("it has no steps".into()) };
    for &v in node.inputs.iter().flatten().filter(|v| t.times[v.0] == Time::Free) {
        let here = (axis + net.dims(v).len()).checked_sub(out_dims.len());
        if here.is_some_and(|a| net.dims(v)[a] != 1) {
            return Err("it has something of its own for each step".into());
        }
    }
    Ok(Time::Axis(axis, extra))
}

fn product(net: &Net, node: &Node, t: &Track) -> Result<Time, String> {
    let Op::EinSum { inputs, output } = &node.op else { return Err("no product".into()) };
    let mut letter = None;
    for (letters, v) in inputs.iter().zip(&node.inputs) {
        let Some(v) = v else { continue };
        if let Time::Axis(axis, extra) = t.times[v.0] {
            let c = letters.chars().nth(axis).ok_or("it loses the steps")?;
            if letter.is_some_and(|other| other != (c, extra)) {
                return Err("it multiplies every step with every other".into());
            }
            letter = Some((c, extra));
        }
    }
    let Some((c, extra)) = letter else { return Err("it has no steps".into()) };
    for (letters, v) in inputs.iter().zip(&node.inputs) {
        if let (Some(v), Some(i)) = (v, letters.chars().position(|l| l == c))
            && t.times[v.0] == Time::Free
            && net.dims(*v)[i] != 1
        {
            return Err("it has weights of their own for each step".into());
        }
    }
    match output.chars().position(|l| l == c) {
        Some(axis) => Ok(Time::Axis(axis, extra)),
        None => Err("it sums over all steps".into()),
    }
}

/// One step instead of all.
fn rewrite(net: &mut Net, t: &Track) {
    net.streamed = true;
    for (i, time) in t.times.iter().enumerate() {
        if let Time::Axis(axis, _) = *time {
            net.graph.values[i].dims[axis] = 1;
        }
    }
    let mut i = 0;
    while i < net.graph.nodes.len() {
        let mut node = net.graph.nodes[i].clone();
        let times: Vec<Time> =
            node.inputs.iter().map(|v| v.map_or(Time::Free, |v| t.times.get(v.0).copied().unwrap_or(Time::Free))).collect();
        let Some(Time::Axis(axis, _)) = times.iter().copied().find(|t| matches!(t, Time::Axis(..))) else {
            i += 1;
            continue;
        };
        // The importer's recipe is for all steps.
        node.recipe = None;
        let on_x = matches!(times.first(), Some(Time::Axis(..)));
        match &mut node.op {
            Op::Slice { axis: sliced, start, .. } if *sliced == axis => *start = 0,
            Op::Gather { axis: gathered } if on_x && *gathered == axis => {
                if let Some(index) = node.inputs[1] {
                    let dims = net.dims(index).to_vec();
                    let first = net.value("latest step", DType::I64, &dims);
                    let zeros = vec![0; dims.iter().product()];
                    net.set_constant(first, Constant::of_i64(&zeros, DType::I64, &dims));
                    node.inputs[1] = Some(first);
                }
            }
            // Sequence lengths, if they are there, say that all steps count.
            Op::Lstm(_) | Op::Gru(_) => {
                if let Some(lengths) = node.inputs.get_mut(4) {
                    *lengths = None;
                }
            }
            Op::Conv { window, .. } => {
                let x = node.inputs[0];
                let rank = x.map_or(0, |x| net.dims(x).len());
                if let (Some(x), Some(k)) = (x, axis.checked_sub(rank - window.kernel.len())) {
                    let rows = window.dilations[k] * (window.kernel[k] - 1) + 1;
                    (window.before[k], window.after[k]) = (0, 0);
                    if rows > 1 {
                        let mut dims = net.dims(x).to_vec();
                        dims[axis] = rows;
                        let kept = net.value(format!("{} window", net.name(x)), net.dtype(x), &dims);
                        node.inputs[0] = Some(kept);
                        let window = made(&node, Op::Window { axis }, &[x], kept);
                        net.insert(i, vec![window]);
                        i += 1;
                    }
                }
            }
            _ => {}
        }
        net.graph.nodes[i] = node;
        i += 1;
    }
    net.tidy();
}
