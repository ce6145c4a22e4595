//! `ic` of MLPerf Tiny: see [`network`].
#![no_std]
#![no_main]

#[path = "../network.rs"]
mod network;
