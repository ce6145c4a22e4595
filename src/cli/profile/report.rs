//! What `kiln profile` found, as text, JSON, a trace and a page.

use super::super::Result;
use super::super::run::duration;
use super::{Measured, memory};
use crate::image::Program;
use crate::image::layout::TensorRecord;
use crate::kernels::Isa;
use crate::model::Compiled;
use crate::program::NONE;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// An op with its time and what follows from it.
struct Op {
    name: String,
    kind: &'static str,
    macs: u64,
    time_ns: u64,
    /// Share of all ops' time.
    share: f64,
    /// Of all operands.
    bytes: u64,
    /// Numbers of tensors.
    inputs: Vec<u32>,
    outputs: Vec<u32>,
}

impl Op {
    fn gflops(&self) -> Option<f64> {
        (self.macs > 0).then(|| 2.0 * self.macs as f64 / self.time_ns.max(1) as f64)
    }

    fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.time_ns.max(1) as f64
    }
}

/// A profile.
pub struct Profile {
    model: String,
    isa: Isa,
    threads: u32,
    compiled: Arc<Compiled>,
    ops: Vec<Op>,
    runs: usize,
    /// Of an undisturbed run.
    run_ns: u64,
    /// GFLOP/s, two operations per multiply-add.
    peak: f64,
    trace: Vec<Vec<u64>>,
}

fn median(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0)
}

fn bytes(program: &Program<'_>, numbers: &[u32]) -> u64 {
    let size = |t: &TensorRecord| t.elements() as u64 * t.dtype().size() as u64;
    // Packed weights have sizes of their own: what a tensor owns counts where that is more.
    numbers.iter().filter(|&&n| n != NONE).map(|&n| &program.tensors()[n as usize]).map(|t| size(t).max(t.bytes as u64)).sum()
}

impl Profile {
    /// Of what was measured of the first program.
    pub fn new(model: String, isa: Isa, threads: u32, compiled: &Arc<Compiled>, measured: Measured) -> Profile {
        let Measured { ops: mut times, mut runs, trace, peak } = measured;
        let medians: Vec<u64> = times.iter_mut().map(|t| median(t)).collect();
        let all = medians.iter().sum::<u64>().max(1) as f64;
        let program = compiled.program();
        let reports = compiled.report.programs.first().map_or(&[][..], |p| &p.ops);
        let known = |list: &[u32]| list.iter().copied().filter(|&t| t != NONE).collect();
        let ops = program.ops().zip(reports).zip(medians).map(|((op, report), time_ns)| Op {
            name: report.name.clone(),
            kind: op.kind.name(),
            macs: report.macs,
            time_ns,
            share: time_ns as f64 / all,
            bytes: bytes(&program, op.inputs) + bytes(&program, op.outputs),
            inputs: known(op.inputs),
            outputs: known(op.outputs),
        });
        let ops = ops.collect();
        let run_ns = median(&mut runs);
        Profile { model, isa, threads, compiled: compiled.clone(), ops, runs: runs.len(), run_ns, peak: 2e-9 * peak, trace }
    }

    fn of_peak(&self, op: &Op) -> Option<f64> {
        op.gflops().map(|rate| rate / self.peak)
    }

    fn stopped_ns(&self) -> u64 {
        self.ops.iter().map(|op| op.time_ns).sum()
    }

    /// A table of ops, and one of kinds.
    pub fn text(&self, sort: bool, out: &mut dyn Write) -> Result<()> {
        let time = |ns| duration(Duration::from_nanos(ns));
        let mut order: Vec<(usize, &Op)> = self.ops.iter().enumerate().collect();
        if sort {
            order.sort_by_key(|(_, op)| std::cmp::Reverse(op.time_ns));
        }
        writeln!(
            out,
            "{:>4}  {:<10} {:>9} {:>7} {:>8} {:>8} {:>11} {:>7}  nodes",
            "op", "kind", "time", "share", "GFLOP/s", "of peak", "bytes", "GB/s"
        )?;
        for (i, op) in order {
            let rate = op.gflops().map_or(String::new(), |r| format!("{r:.1}"));
            let of_peak = self.of_peak(op).map_or(String::new(), |s| format!("{:.1} %", 100.0 * s));
            writeln!(
                out,
                "{i:>4}  {:<10} {:>9} {:>5.1} % {rate:>8} {of_peak:>8} {:>11} {:>7.1}  {}",
                op.kind,
                time(op.time_ns),
                100.0 * op.share,
                op.bytes,
                op.bandwidth(),
                op.name
            )?;
        }
        let mut kinds: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for op in &self.ops {
            let (ops, ns) = kinds.entry(op.kind).or_default();
            (*ops, *ns) = (*ops + 1, *ns + op.time_ns);
        }
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by_key(|&(_, (_, ns))| std::cmp::Reverse(ns));
        writeln!(out)?;
        for (kind, (ops, ns)) in kinds {
            let share = 100.0 * ns as f64 / self.stopped_ns().max(1) as f64;
            writeln!(out, "{kind:<10} {:>9} {share:>5.1} %  in {ops} op{}", time(ns), if ops == 1 { "" } else { "s" })?;
        }
        writeln!(
            out,
            "\none run {}; the sum over its ops, with the clock read after each, {} ({} runs of both, {}, {})",
            time(self.run_ns),
            time(self.stopped_ns()),
            self.runs,
            super::super::threads(self.threads),
            self.isa.name()
        )?;
        writeln!(out, "peak of multiply-adds, measured between the runs: {:.1} GFLOP/s", self.peak)?;
        Ok(())
    }

    /// Everything, as one object.
    pub fn json(&self) -> Value {
        let program = self.compiled.program();
        let main = self.compiled.report.programs.first();
        let how = |i: usize| self.compiled.how.get(i).map_or(("", ""), |h| (&h.how, &h.why));
        let op = |(i, op): (usize, &Op)| {
            let (how, why) = how(i);
            json!({
                "name": op.name, "kind": op.kind, "macs": op.macs, "time_ns": op.time_ns, "share": op.share, "bytes": op.bytes,
                "gflops": op.gflops(), "share_of_peak": self.of_peak(op), "inputs": op.inputs, "outputs": op.outputs,
                "scratch_offset": program.ops().nth(i).map(|o| o.scratch), "how": how, "why": why,
                "scratch_bytes": main.and_then(|m| m.ops.get(i)).map(|o| o.scratch_bytes),
            })
        };
        let tensor = |life: &memory::Life| {
            let t = program.tensor(life.tensor);
            json!({
                "number": life.tensor, "name": t.name(), "dtype": t.dtype().name(), "shape": t.dims(), "offset": life.offset,
                "bytes": life.bytes, "first_op": life.ops.0, "last_op": life.ops.1, "state": life.state,
            })
        };
        json!({
            "model": self.model, "isa": self.isa.name(), "threads": self.threads, "runs": self.runs, "run_ns": self.run_ns,
            "ops_ns": self.stopped_ns(), "peak_gflops": self.peak, "arena_bytes": program.arena_bytes(),
            "live_bytes": program.live_bytes(), "ops": self.ops.iter().enumerate().map(op).collect::<Vec<_>>(),
            "tensors": memory::lives(&program).iter().map(tensor).collect::<Vec<_>>(),
        })
    }

    /// The last runs as complete events of the Trace Event Format, which Perfetto reads: one per op.
    pub fn trace(&self) -> Value {
        let us = |ns: u64| ns as f64 / 1e3;
        let mut events = vec![json!({ "name": "process_name", "ph": "M", "pid": 1, "args": { "name": self.model } })];
        for ends in &self.trace {
            let span = |name: &str, kind: &str, from: u64, to: u64, args: Value| json!({ "name": name, "cat": kind, "ph": "X", "pid": 1, "tid": 1, "ts": us(from), "dur": us(to - from), "args": args });
            if let (Some(&from), Some(&to)) = (ends.first(), ends.last()) {
                events.push(span("run", "run", from, to, json!({})));
            }
            for ((i, op), ends) in self.ops.iter().enumerate().zip(ends.windows(2)) {
                let args = json!({ "op": i, "nodes": op.name, "macs": op.macs, "bytes": op.bytes });
                events.push(span(&format!("{} {}", op.kind, op.name), op.kind, ends[0], ends[1], args));
            }
        }
        json!({ "traceEvents": events, "displayTimeUnit": "ns" })
    }

    /// A page of HTML that is complete in itself.
    pub fn page(&self) -> String {
        // Inside of a script nothing may look like the end of it.
        let data = self.json().to_string().replace('<', "\\u003c");
        include_str!("page.html").replace("/*DATA*/null", &data)
    }
}
