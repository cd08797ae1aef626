"""What the stage scripts share: one subject a file. Nothing here imports a script.

The way of the data, and the files along it in reading order:

  every stage   contract, errors, command_line, folders, jsonl, failures, visible
  several hosts joining, host_lines, hosts, meeting, following
  rows          public_sources, readers, cells, columns, hub_data, unified_rows, splits, overlap,
                references, mixing, sft_targets, prompt_lengths, data_report,
                builtin_pool, builtin_questions
  tokens        tokenization, tokenizer_json, tokenizer_check
  the model     model_names, model_json, weight_files, gemma_config, gemma, hugging_face,
                peft_folder, parameters, loading, devices, sliding_window, forward_pass
  rollouts      streams, batching, sampling, answering, rollouts
  rewards       scoring, checking, math_checking, statements, remarks, sums, quantities,
                measures, number_words, equivalence, science_checking, logic_checking, own_checks,
                reward_rows, prose, own_rewards, cheats, llm_judge
  code          code_checking, sandbox, sandbox_worker, sandbox_lockdown, sandbox_wire,
                sandbox_data, sandbox_remote, sandbox_solver, sandbox_judge, sandbox_names,
                sandbox_imports, sandbox_trust
  updates       grpo_settings, grpo_start, policy_gradient, answer_packing, logprobs,
                optimization, grpo_learner, preflight, validation, health, programs, training_log
  a run kept    runs, run_size, checkpoints, curves
  evaluation    verdicts, before_after, summary, intervals, comparison, findings, lineage,
                tables, sweep, charts, report, page, asking
  export        export_formats, gguf_format, tokenizer_files, parity, parity_torch, model_card,
                publishing
"""

import os
import sys

# A notebook's kernel hands MPLBACKEND, the name of its own chart backend, on to `!./run.sh` and
# `!python evaluate.py`. Where that package is not installed matplotlib does not even import. Charts
# here go to files, so outside the kernel itself the backend that needs no screen will do.
if "MPLBACKEND" in os.environ and "ipykernel" not in sys.modules:
  os.environ["MPLBACKEND"] = "agg"
