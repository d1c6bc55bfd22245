//! When messages are coloured.

use std::io::IsTerminal;

use clap::ValueEnum;

/// The choices of `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is `dumb`.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether messages on standard error are coloured.
    pub fn is_wanted(self) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let environment = crate::host::environment;
                let dumb = environment("TERM").is_some_and(|term| term == "dumb");
                std::io::stderr().is_terminal() && environment("NO_COLOR").is_none() && !dumb
            }
        }
    }
}
