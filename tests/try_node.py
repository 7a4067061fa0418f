import sys, time, subprocess, os

sys.path.insert(0, "/work/wt/slurm20/tests/workflow")
import slurm_node

t = time.time()
with slurm_node.running() as node:
    print("up", round(time.time() - t, 1), node.folder)
    print(
        node.say("srun", "-n1", "--gpus=1", "env")[-300:].count("CUDA"),
        node.say("srun", "-n1", "--gpus=1", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"),
    )
    t1 = time.time()
    if len(sys.argv) > 1:
        time.sleep(1000)
    print(node.say("sbatch", "-n1", "-o", "/dev/null", "--wrap", "sleep 100"))
    while "RUNNING" not in node.jobs():
        time.sleep(0.1)
    print("running after", time.time() - t1)
    t1 = time.time()
print("down", time.time() - t1)
