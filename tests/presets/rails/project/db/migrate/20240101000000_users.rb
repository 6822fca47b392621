class Users < ActiveRecord::Migration[6.1]
  def change
    create_table(:users) { |t| t.string :name }
  end
end
