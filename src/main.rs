//! The command `kiln`: see [`kiln::cli`].

use std::process::ExitCode;

mod heap;

#[global_allocator]
static ALLOCATOR: heap::Heap = heap::Heap;

fn main() -> ExitCode {
    // A run that is to take little memory gives back what it frees.
    if !std::env::args_os().any(|argument| argument == "--lean") {
        heap::settle();
    }
    forget_backtraces();
    ExitCode::from(kiln::cli::main(heap::calls))
}

/// tract makes errors and drops them in the course of its work, up to some hundred in an import. Where `RUST_BACKTRACE` is set, each
/// would walk the stack for a backtrace that nobody sees: up to a tenth of the import's time, and a megabyte of the program's
/// tables. Those of panics stay; whoever wants these too sets `RUST_LIB_BACKTRACE`.
#[allow(unsafe_code)]
fn forget_backtraces() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    if std::env::var_os(VARIABLE).is_none() && std::env::var_os("RUST_BACKTRACE").is_some() {
        // SAFETY: there is no other thread yet.
        unsafe { std::env::set_var(VARIABLE, "0") };
    }
}
