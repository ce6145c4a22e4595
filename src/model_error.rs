//! What can go wrong on the host, between a file and an answer: always with the file, or the node and its op.

use std::fmt;
use std::path::PathBuf;

/// An error of the host ring.
#[derive(Debug)]
pub enum ModelError {
    /// A file could not be read or written.
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file's contents are not what they should be.
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A node of the network can't be imported, lowered or run.
    Node {
        /// The ONNX node's name.
        node: String,
        /// Its op type.
        op: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A call does not fit the model: a name, shape, type or value.
    Call(String),
    /// An error of the core ring.
    Core(crate::error::Error),
}

impl ModelError {
    /// An error of a node.
    pub fn node(node: impl Into<String>, op: impl Into<String>, what: impl Into<String>) -> ModelError {
        ModelError::Node { node: node.into(), op: op.into(), what: what.into() }
    }
}

impl From<crate::error::Error> for ModelError {
    fn from(error: crate::error::Error) -> ModelError {
        ModelError::Core(error)
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelError::File { path, source } => write!(f, "{}: {source}", path.display()),
            ModelError::Format { path, what } => write!(f, "{}: {what}", path.display()),
            ModelError::Node { node, op, what } => write!(f, "node \"{node}\" ({op}): {what}"),
            ModelError::Call(what) => f.write_str(what),
            ModelError::Core(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ModelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ModelError::File { source, .. } => Some(source),
            ModelError::Core(error) => Some(error),
            _ => None,
        }
    }
}
