//! Calls into tract that may fail or panic, turned into errors that say where.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use tract_onnx::prelude::TractResult;

/// A failure of tract's.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The node that tract was at, if it says so.
    pub node: Option<String>,
    /// What tract says.
    pub what: String,
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic becomes an error, and is not printed.
pub(super) fn run<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, Trouble> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                previous(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let chain: Vec<String> = error.chain().map(|e| e.to_string()).collect();
            Err(Trouble { node: chain.iter().find_map(|text| named(text)), what: summary(&chain) })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| s.to_string()));
            Err(Trouble { node: None, what: format!("it panicked: {}", text.as_deref().unwrap_or("without a message")) })
        }
    }
}

/// The node's name in one of tract's messages: `… node #12 "name" Op …`, or `Building node name (Op)`.
fn named(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix("Building node ") {
        return rest.rsplit_once(" (").map(|(name, _)| name.into()).filter(|n: &String| !n.is_empty());
    }
    let rest = &text[text.find('#')?..];
    let (number, rest) = rest[1..].split_once(" \"")?;
    number.parse::<usize>().ok()?;
    rest.split_once("\" ").map(|(name, _)| name.into())
}

/// The innermost causes, without the steps that led to them.
fn summary(chain: &[String]) -> String {
    let text = chain.last().map_or("no reason given", |s| s.as_str());
    let line = text.lines().next().unwrap_or_default();
    let mut line: String = line.chars().take(300).collect();
    if text.len() > line.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::tract_hir::internal::*;

    #[test]
    fn names_are_found_in_messages() {
        assert_eq!(named("Failed analyse for node #12 \"a/b c\" Conv").as_deref(), Some("a/b c"));
        assert_eq!(named("Building node x (Foo)").as_deref(), Some("x"));
        assert_eq!(named("no node here"), None);
    }

    #[test]
    fn panics_and_errors_become_trouble() {
        let t = run::<()>(|| panic!("boom {}", 1)).unwrap_err();
        assert!(t.what.contains("boom 1"));
        let t = run::<()>(|| Err(format_err!("why")).context("Failed analyse for node #1 \"n\" Op")).unwrap_err();
        assert_eq!((t.node.as_deref(), &*t.what), (Some("n"), "why"));
        assert!(run(|| Ok(1)).is_ok());
    }
}
