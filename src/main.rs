//! The `keydesk` program. Everything is in the library, where tests can reach it.

use std::{alloc::System, process::ExitCode};

use zeroizing_alloc::ZeroAlloc;

/// Memory is wiped when it is freed. Our own types do that for themselves; this does it for what passes through others:
/// the buffers in which requests and answers are put together, and the copies that parsers make.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    keydesk::cli::main()
}
