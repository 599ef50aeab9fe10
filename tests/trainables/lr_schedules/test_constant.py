from trainables.lr_schedules.constant import Constant


def test_the_lr_stays_constant(learning_rates):
    assert learning_rates(Constant, lr=0.3, max_epochs=4, steps_per_epoch=2) == [0.3] * 9
