//! `beeline`: one static binary on every node. All of it is in the library beside it.

fn main() -> std::process::ExitCode {
    beeline::cli::main()
}
