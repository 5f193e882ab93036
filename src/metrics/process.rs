//! The process as the kernel sees it, under the names that every Prometheus client uses. Read from `/proc`; where there is
//! none, they are left out.

use std::fs;

use prometheus_client::{
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::page::gauge;

/// Clock ticks per second in `/proc`: `USER_HZ`, which is 100 on every architecture we run on.
const TICKS: f64 = 100.0;

/// The process at this moment.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::with_prefix("process");
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let cpu = ticks(&stat, 14).zip(ticks(&stat, 15)).map(|(user, system)| user + system);
    if let Some(cpu) = cpu {
        registry.register_with_unit("cpu", "Time on a processor", Unit::Seconds, ConstCounter::new(cpu));
    }
    let started = ticks(&stat, 22).zip(booted_at()).map(|(since_boot, boot)| boot + since_boot);
    gauge(&mut registry, "start_time", "When the process was started", Unit::Seconds, started);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, help, row) in [
        ("resident_memory", "Memory in use", "VmRSS:"),
        ("virtual_memory", "Address space in use", "VmSize:"),
    ] {
        gauge(&mut registry, name, help, Unit::Bytes, kibibytes(&status, row).map(|size| size * 1024));
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        registry.register("open_fds", "Open files and sockets", ConstGauge::new(open.count()));
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = most_open_files(&limits) {
        registry.register("max_fds", "How many files and sockets may be open", ConstGauge::new(most));
    }
    registry
}

/// Field `number` of `/proc/self/stat` (proc(5)), in seconds. The second field is the program's name in parentheses, which
/// may hold anything, so what follows is counted from its end.
fn ticks(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let field = after_name.split(' ').nth(number.checked_sub(3)?)?;
    Some(field.parse::<f64>().ok()? / TICKS)
}

/// When the machine was started, in seconds since 1970.
fn booted_at() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

fn kibibytes(status: &str, row: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(row))?;
    rest.trim().strip_suffix(" kB")?.parse().ok()
}

/// The soft limit; `unlimited` is none.
fn most_open_files(limits: &str) -> Option<u64> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let fields: Vec<String> = (3..=52).map(|number| (number * 100).to_string()).collect();
        let stat = format!("7 (a) b (c d) {}", fields.join(" "));
        assert_eq!(ticks(&stat, 14), Some(14.0));
        assert_eq!(ticks(&stat, 22), Some(22.0));
        assert_eq!(ticks("7 (a) S", 14), None);
    }

    #[test]
    fn the_rows_of_proc_are_understood() {
        assert_eq!(kibibytes("Name:\tx\nVmRSS:\t  5120 kB\n", "VmRSS:"), Some(5120));
        assert_eq!(
            most_open_files("Max open files            1024                 524288               files\n"),
            Some(1024)
        );
        assert_eq!(
            most_open_files("Max open files            unlimited            unlimited            files\n"),
            None
        );
    }
}
