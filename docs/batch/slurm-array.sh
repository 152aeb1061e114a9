#!/bin/bash
# Predictions for a folder of images by an array of eight tasks, each of which answers for one shard.
# sbatch slurm-array.sh ARTIFACT IMAGES ANSWERS    (folders that all machines see)
#SBATCH --job-name=leanmed-predict
#SBATCH --array=1-8
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=leanmed-%A-%a.log
set -eu
artifact=$1 images=$2 answers=$3
shard=$SLURM_ARRAY_TASK_ID shards=8 # as --array above; of a task that is submitted again by itself, too
status=0
# A task that is started again goes on after the last line that it wrote. The exit status is 1 when images cannot be
# read, which they will not be the next time either; the file that ends in .done says that the shard is whole. Any
# other status is a failure, even if such a file of an earlier run is there.
leanmed predict "$artifact" "$images" --out "$answers/answers.jsonl" \
  --shard "$shard/$shards" --workers "${SLURM_CPUS_PER_TASK:-1}" --resume || status=$?
if [ "$status" -eq 1 ] && [ -f "$answers/answers-$shard-of-$shards.jsonl.done" ]; then
  status=0
fi
exit "$status"
