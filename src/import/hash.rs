//! Tables by a quick hash.
//!
//! The import looks up names tens of thousands of times. The standard library's hash withstands whoever chooses the names so that they
//! collide, and takes several times as long; here that would gain him nothing but a slow import of his own file.

use foldhash::fast::RandomState;

pub(super) use foldhash::fast::FixedState;

/// A table, made by `default()`.
pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// A set, made by `default()`.
pub(super) type HashSet<K> = std::collections::HashSet<K, RandomState>;
