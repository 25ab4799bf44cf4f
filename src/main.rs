fn main() -> std::process::ExitCode {
    beeline::cli::main()
}
