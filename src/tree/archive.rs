//! Tar archives read into a tree.
