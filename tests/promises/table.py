"""The promises: what each says, how often it is tried, and by which tests. The numbers stand nowhere else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """says: the sentence for the reader. plain, full: how many cases a plain run and a full one try.

    tests: node ids below tests/. A test with the fixture `tally` takes its number of cases from here; of other tests
    each passed item is one case, and there must be at least `full` of them.
    """

    says: str
    plain: int
    full: int
    tests: tuple[str, ...]


PROMISES = {
    "kill": Promise(
        "A run killed by SIGKILL, at any time or inside any write, is resumed and ends with the same files",
        12, 200, ("promises/test_kill.py::test_a_killed_run_is_resumed_and_ends_with_the_same_files",),
    ),
    "stop": Promise(
        "A run stopped after any batch of an epoch of 12 is resumed and ends with the same files",
        3, 12, ("promises/test_signals.py::test_a_run_stopped_after_any_batch_ends_with_the_same_files",),
    ),
    "signals": Promise(
        "SIGINT and SIGTERM, once or twice, at any time: exit code 130 or 143, one line, nothing lost",
        8, 50, ("promises/test_signals.py::test_a_signal_ends_the_run_with_its_code_and_nothing_lost",),
    ),
    "disk": Promise(
        "A disk that is full from any byte on: one line, exit code 1, the old files whole; resumed to the same files",
        8, 50, ("promises/test_disk.py::test_a_full_disk_leaves_the_old_files_whole",),
    ),
    "race": Promise(
        "Two runs started in one folder: one wins, the other names it and leaves its files alone",
        6, 30, ("promises/test_races.py::test_of_two_runs_in_one_folder_one_wins",),
    ),
    "checkpoint": Promise(
        "A damaged checkpoint is refused in one line",
        300, 10_000, ("promises/test_mutants.py::test_damaged_checkpoints_are_refused",),
    ),
    "checkpoint signed": Promise(
        "A changed checkpoint with a right digest is refused in one line, or loads as exactly what it says",
        200, 10_000, ("promises/test_mutants.py::test_changed_checkpoints_load_as_what_they_say_or_not_at_all",),
    ),
    "state": Promise(
        "A damaged training state is refused in one line, or the one before is taken",
        150, 10_000, ("promises/test_mutant_states.py::test_damaged_states_are_refused",),
    ),
    "state signed": Promise(
        "A changed training state with a right digest is refused in one line, or resumed as exactly what it says",
        150, 10_000, ("promises/test_mutant_states.py::test_changed_states_resume_as_what_they_say_or_not_at_all",),
    ),
    "newest": Promise(
        "One bit of the newest training state changes: noticed and said, and the one before is taken",
        20, 500, ("promises/test_mutant_states.py::test_a_bit_of_the_newest_state_changes",),
    ),
    "foreign": Promise(
        "A damaged file of another program is refused in one line, or read as the safetensors library reads it",
        300, 10_000, ("promises/test_mutants.py::test_foreign_files_are_read_as_safetensors_reads_them_or_not_at_all",),
    ),
    "cifar10": Promise(
        "Damaged files of CIFAR-10 are refused in one line, or hold whole records with labels from 0 to 9",
        200, 10_000, ("promises/test_mutant_data.py::test_damaged_cifar10_files_are_refused_or_hold_records",),
    ),
    "archive": Promise(
        "A damaged archive of CIFAR-10 is refused in one line, or holds what was put in",
        100, 10_000, ("promises/test_mutant_data.py::test_damaged_archives_are_refused_or_whole",),
    ),
    "pictures": Promise(
        "A damaged picture is refused in one line, or is a picture",
        200, 10_000, ("promises/test_mutant_data.py::test_damaged_pictures_are_refused_or_pictures",),
    ),
    "commands": Promise(
        "A wrong command line: its exit code, one line that says what to do, no traceback, nothing written",
        80, 80,
        ("test_cli.py::test_a_mistake_gets_its_exit_code_and_one_line",
         "promises/test_commands.py::test_a_wrong_command_line_is_one_line"),
    ),
    "misuse": Promise(
        "A misuse of a layer: one typed error that names it, what it got and what it wanted, and nothing changed",
        60, 60,
        ("test_errors.py::test_making", "test_errors.py::test_forward", "test_errors.py::test_a_wrong_dy",
         "test_errors.py::test_backward_twice_or_without_what_forward_keeps"),
    ),
    "not finite": Promise(
        "A NaN in a weight, gradient, velocity or running average stops the run before it is saved; no file holds one",
        12, 60, ("promises/test_not_finite.py::test_a_nan_stops_the_run_before_it_is_saved",),
    ),
    "softmax": Promise(
        "Loss and gradient of any finite logits are finite, and right to 1e-6",
        60, 600, ("promises/test_numbers.py::test_the_loss_of_any_finite_logits_is_finite_and_right",),
    ),
    "threads": Promise(
        "All nine small networks train to the same bits with 1, 2, 3 and 4 threads",
        9, 36, ("promises/test_bits.py::test_the_number_of_threads_changes_no_bit",),
    ),
    "seed": Promise(
        "All nine small networks train to the same bits in 5 processes",
        18, 45, ("promises/test_bits.py::test_one_seed_gives_the_same_bits_in_every_process",),
    ),
    "smallest": Promise(
        "The smallest image of every network is taken, and one pixel less refused by name",
        15, 15,
        ("test_models.py::test_one_pixel_less_than_the_smallest_image_is_refused",
         "test_models.py::test_the_smallest_image_is_exact_in_training_too"),
    ),
    "leaks": Promise(
        "500 steps of training: memory grows by less than 0.1 MB a step, open files do not grow",
        1, 3, ("promises/test_leaks.py::test_five_hundred_steps_leak_nothing",),
    ),
    "versions": Promise(
        "Files of earlier versions load; those of unknown formats are refused by the format's name",
        6, 6, ("promises/test_versions.py",),
    ),
    "memory": Promise(
        "The estimate of the memory that a run takes is within 15 % of the measured peak",
        3, 12,
        ("test_memory.py::test_the_estimate_is_near_what_training_takes",
         "test_memory.py::test_all_estimates_are_near_what_training_takes"),
    ),
    "cache": Promise(
        "Compiled kernels: a damaged file is made again, a full disk means memory, those of several processes fit",
        11, 18,
        ("test_code_cache.py::test_a_damaged_file_is_thrown_away_and_made_again",
         "test_code_cache.py::test_kernels_that_several_processes_compiled_are_right_together",
         "test_code_cache.py::test_damage_at_any_place_is_thrown_away",
         "test_code_cache.py::test_a_write_that_fails_means_compiling_in_memory",
         "test_code_cache.py::test_a_full_disk_means_compiling_in_memory"),
    ),
    "start": Promise(
        "`import inception_np` in 0.15 s beyond NumPy, help in 0.25 s, without threads, files written or network",
        4, 4,
        ("test_cli.py::test_help_comes_in_under_a_quarter_of_a_second",
         "test_cli.py::test_help_imports_nothing_heavy", "promises/test_start.py::test_importing"),
    ),
}  # fmt: skip
