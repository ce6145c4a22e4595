//! A bar for long work: on a terminal, on standard error; nowhere else.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// A bar of this many steps, or one that only turns where the number is not known.
pub fn bar(what: &'static str, steps: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, style) = match steps {
        Some(n) => (ProgressBar::new(n), "{msg} {wide_bar} {pos}/{len} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
    };
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bar.with_style(style).with_message(what);
    if steps.is_none() {
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
    }
    bar
}
