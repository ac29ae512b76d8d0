import torch
from tasks import *
from toylab.model import *
from toylab.circuits import *
from toylab.evaluate import *
from toylab.batches import *
from toylab.train import *
from toylab.studies.iteration_head import IterationHeadStudy
def test_x(quick_run):
    t=Polynomial(lengths=(1,8))
    m=Transformer.for_task(t)
    train(m,next_token_loss,fresh(t,0,8),TrainConfig(steps=5,warmup=1))
    for T in TASKS:
        t=T(lengths=(1,6)); m=iteration_head(t).double(); ex=held_out(t,0,range(4,7),8); assert accuracy(m,ex).sequence==1; assert search_iteration_head(m,ex).found
    for pos in ("none","learned","sinusoidal","rotary","alibi"):
        m=Transformer.for_task(t,ModelConfig(positions=pos)); 
        next_token_loss(m,pack(t.sample(stream(0),8)))
        generate(m,torch.zeros(2,3,dtype=torch.long),2)
    S=IterationHeadStudy.quick()
    from toylab.finish import finish
    print(finish(quick_run))
