//! The command line, as people and scripts use it.

mod config;
mod desk;
mod help;
mod start;
