//! The certificate and the budgets of `kiln compile`: how they are asked for and shown.

use super::{Failure, Result};
use crate::certificate::{Budgets, Certificate, Resource, stacks::MEASURED_ON};
use crate::model::How;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::io::Write;

/// A number of bytes or multiply-accumulates, and how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    most: u64,
    text: String,
}

/// Reads a whole number with an optional K or M, which stand for `unit` and its square.
fn limit(text: &str, unit: u64) -> std::result::Result<Limit, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], unit),
        Some(b'M' | b'm') => (&text[..text.len() - 1], unit * unit),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it must be a whole number, with K or M behind it or nothing: 40960, 40K, 2M".into());
    }
    let most = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    most.map(|most| Limit { most, text: text.into() }).ok_or("it is too large a number".into())
}

/// K is 1024, as in linker scripts.
fn bytes(text: &str) -> std::result::Result<Limit, String> {
    limit(text, 1024)
}

/// K is 1000.
fn macs(text: &str) -> std::result::Result<Limit, String> {
    limit(text, 1000)
}

/// Budgets, as options of the command.
#[derive(Args)]
pub struct BudgetArgs {
    /// Fail, and write nothing, if an arena is larger; K is 1024 bytes, M 1024 K
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_arena: Option<Limit>,
    /// Fail, and write nothing, if the image is larger
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_flash: Option<Limit>,
    /// Fail, and write nothing, if a run takes more multiply-accumulates; K is 1000, M a million
    #[arg(long, value_name = "N", value_parser = macs)]
    max_macs: Option<Limit>,
    /// Fail, and write nothing, if a run can't be cut into slices of this many multiply-accumulates or less
    #[arg(long, value_name = "N", value_parser = macs)]
    max_slice: Option<Limit>,
    /// Fail, and write nothing, if a run takes more stack, by what its kinds of ops took on a Cortex-M4F
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_stack: Option<Limit>,
}

impl BudgetArgs {
    /// Holds a certificate against the budgets.
    pub fn check(&self, certificate: &Certificate) -> Result<()> {
        let most = |limit: &Option<Limit>| limit.as_ref().map(|limit| limit.most);
        let budgets = Budgets {
            arena: most(&self.max_arena),
            flash: most(&self.max_flash),
            macs: most(&self.max_macs),
            slice: most(&self.max_slice),
            stack: most(&self.max_stack),
        };
        let beyond: Vec<String> = certificate
            .beyond(&budgets)
            .iter()
            .map(|excess| {
                let (option, limit) = match excess.resource {
                    Resource::Arena => ("--max-arena", &self.max_arena),
                    Resource::Flash => ("--max-flash", &self.max_flash),
                    Resource::Macs => ("--max-macs", &self.max_macs),
                    Resource::Slice => ("--max-slice", &self.max_slice),
                    Resource::Stack => ("--max-stack", &self.max_stack),
                };
                format!("{option} {}: {excess}", limit.as_ref().map_or("", |limit| &limit.text))
            })
            .collect();
        match beyond.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(format!("over budget, nothing is written: {}", beyond.join("; ")))),
        }
    }
}

/// A core that the image is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TargetCpu {
    /// Armv6-M
    #[value(name = "cortex-m0")]
    M0,
    /// Armv6-M
    #[value(name = "cortex-m0plus")]
    M0Plus,
    /// Armv7-M
    #[value(name = "cortex-m3")]
    M3,
    /// Armv7E-M, without an FPU
    #[value(name = "cortex-m4")]
    M4,
    /// Armv7E-M with an FPU
    #[value(name = "cortex-m4f")]
    M4F,
    /// Armv7E-M with an FPU
    #[value(name = "cortex-m7")]
    M7,
    /// Armv8-M with an FPU
    #[value(name = "cortex-m33")]
    M33,
    /// Armv8.1-M with an FPU
    #[value(name = "cortex-m55")]
    M55,
}

impl TargetCpu {
    fn has_fpu(self) -> bool {
        matches!(self, TargetCpu::M4F | TargetCpu::M7 | TargetCpu::M33 | TargetCpu::M55)
    }

    /// What should be known before this image is flashed to this core.
    pub fn warning(self, certificate: &Certificate) -> Option<String> {
        // Programs of several sizes have the same ops.
        let ops = || certificate.programs.iter().take(1).flat_map(|program| &program.ops);
        let float = ops().filter(|op| op.float).count();
        if self.has_fpu() || float == 0 {
            return None;
        }
        let macs: u64 = ops().filter(|op| op.float).map(|op| op.macs).sum();
        Some(format!(
            "{} has no floating-point unit: {float} of {} ops, {macs} multiply-accumulates, are computed in software, \
             at 100 to 300 instructions each; take a core with one (cortex-m4f, cortex-m7, cortex-m33, cortex-m55) if that is too slow",
            self.to_possible_value().map_or_else(String::new, |value| value.get_name().into()),
            ops().count(),
        ))
    }
}

/// The certificate as JSON; `how` says of the first program's ops how they came to be.
pub fn json(certificate: &Certificate, how: &[How]) -> Value {
    let program = |(p, program): (usize, &crate::certificate::ProgramCertificate)| {
        let op = |(i, op): (usize, &crate::certificate::OpCertificate)| {
            let how = how.get(i).filter(|_| p == 0);
            json!({
                "name": op.name, "kind": op.kind.name(), "macs": op.macs, "unit_work": op.unit_work, "weight_bytes": op.weight_bytes,
                "arena_bytes": op.arena_bytes, "stack_bytes": op.stack_bytes, "float": op.float,
                "how": how.map_or("", |h| &h.how), "why": how.map_or("", |h| &h.why),
            })
        };
        json!({
            "name": program.name, "arena_bytes": program.arena_bytes, "state_bytes": program.state_bytes,
            "scratch_bytes": program.scratch_bytes, "live_bytes": program.live_bytes, "macs": program.macs,
            "unit_work": program.unit_work, "stack_bytes": program.stack_bytes, "stack_measured_on": MEASURED_ON,
            "ops": program.ops.iter().enumerate().map(op).collect::<Vec<_>>(),
        })
    };
    json!({
        "image_bytes": certificate.image_bytes, "weight_bytes": certificate.weight_bytes, "alignment": certificate.alignment,
        "programs": certificate.programs.iter().enumerate().map(program).collect::<Vec<_>>(),
    })
}

/// The certificate as text.
pub fn text(certificate: &Certificate, how: &[How], out: &mut dyn Write) -> Result<()> {
    let Certificate { image_bytes, weight_bytes, alignment, programs } = certificate;
    writeln!(out, "flash    {image_bytes} bytes, of which weights {weight_bytes}; aligned to {alignment}")?;
    for (p, program) in programs.iter().enumerate() {
        let name = if programs.len() > 1 { format!(" of {}", program.name) } else { String::new() };
        writeln!(
            out,
            "arena    {} bytes{name}, of which state {}, scratch {}; the largest sum of live tensors is {}",
            program.arena_bytes, program.state_bytes, program.scratch_bytes, program.live_bytes
        )?;
        let float: u64 = program.ops.iter().filter(|op| op.float).map(|op| op.macs).sum();
        writeln!(out, "work     {} multiply-accumulates a run{name}, {float} of them in floating point", program.macs)?;
        writeln!(out, "slices   of {} multiply-accumulates at most, on a Cortex-M", program.unit_work)?;
        writeln!(out, "stack    {} bytes a run at most, as measured on a {MEASURED_ON}", program.stack_bytes)?;
        writeln!(out, "\n{:>4}  {:<10} {:>12} {:>10} {:>10} {:>10}  nodes", "op", "kind", "MACs", "unit", "weights", "arena")?;
        for (i, op) in program.ops.iter().enumerate() {
            let reason = how.get(i).filter(|_| p == 0).map_or(String::new(), |h| format!("  ({}: {})", h.how, h.why));
            writeln!(
                out,
                "{i:>4}  {:<10} {:>12} {:>10} {:>10} {:>10}  {}{reason}",
                op.kind.name(),
                op.macs,
                op.unit_work,
                op.weight_bytes,
                op.arena_bytes,
                op.name
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let most = |text: &str| bytes(text).map(|limit| limit.most);
        assert_eq!([most("0"), most("40960"), most("40K"), most("2m")], [Ok(0), Ok(40960), Ok(40960), Ok(2 << 20)]);
        assert_eq!(macs("5M").map(|limit| limit.most), Ok(5_000_000));
        for wrong in ["", "K", "-1", "+1", "1.5M", "40KB", "40 K", "4é", "0x10", "99999999999999999999", "18446744073709551615K"]
        {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
